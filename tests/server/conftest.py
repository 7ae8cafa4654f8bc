"""A live server with the embedded model, in a thread of the test process."""

from collections.abc import Iterator

import pytest

from helpers.live_server import LiveServer, embedded_server

pytest.importorskip("fastapi")


@pytest.fixture(scope="session")
def live() -> Iterator[LiveServer]:
    """The embedded model in float32, without keys."""
    with embedded_server() as server:
        yield server


@pytest.fixture(scope="session")
def server_url(live: LiveServer) -> str:
    return live.url
