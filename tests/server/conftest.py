"""A live server with the embedded model, in a thread of the test process."""

from collections.abc import Iterator

import pytest

from helpers.live_server import LiveServer, serving


@pytest.fixture(scope="session")
def live(embedded: tuple) -> Iterator[LiveServer]:
    """The embedded model in float32, without keys."""
    with serving(*embedded) as server:
        yield server


@pytest.fixture(scope="session")
def server_url(live: LiveServer) -> str:
    return live.url
