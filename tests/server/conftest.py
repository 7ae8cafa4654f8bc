"""A live server with the embedded model, in a thread of the test process."""

from collections.abc import Iterator

import pytest

from helpers.live_server import LiveServer, embedded_server


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one process have all tests that need the server, so that it is started once."""
    for item in items:
        if "live" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("server"))


@pytest.fixture(scope="session")
def live() -> Iterator[LiveServer]:
    """The embedded model in float32, without keys."""
    with embedded_server() as server:
        yield server


@pytest.fixture(scope="session")
def server_url(live: LiveServer) -> str:
    return live.url
