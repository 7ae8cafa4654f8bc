"""`run`: serve until a signal, let running requests end, save the memory."""

import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from lookahead.server.state import ServerState

_log = logging.getLogger("lookahead.server")
_KEEP_ALIVE_SECONDS = 5
_CLOSE_SECONDS = 5
"""How long connections have after all requests have ended."""
_MAX_HEADER_BYTES = 65536


class _Server(uvicorn.Server):
    """Stays open while it drains, so that new requests are told to go elsewhere; ends with exit code 0."""

    def __init__(self, config: uvicorn.Config, state: ServerState, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._state, self._on_ready = state, on_ready
        self._draining: threading.Thread | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGTERM and Ctrl-C while serving."""
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._draining is not None:  # the second one: at once
            self.should_exit = self.force_exit = True
            return
        self._state.is_draining = True
        self._draining = threading.Thread(target=self._drain, name="lookahead-drain", daemon=True)
        self._draining.start()

    def _drain(self) -> None:
        seconds = self._state.settings.drain_s
        _log.info("no new requests are taken; those that run have %d s", seconds)
        try:
            self._state.engine.drain(seconds)
        finally:
            self.should_exit = True


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket with this address; it takes connections only when the server is ready.

    Raises:
        OSError: The address cannot be used; the message names it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        message = f"cannot listen at {host}:{port}: {error.strerror or error}"
        raise OSError(message) from None
    return bound


def url_of(bound: socket.socket) -> str:
    """Return the address of a socket as a URL."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(app: FastAPI, bound: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; a second one ends at once. Then save the memory.

    Args:
        app: The application.
        bound: Where to listen; it is closed at the end.
        on_ready: Called when clients can connect.

    Raises:
        LookaheadError: The memory cannot be saved.
    """
    state: Any = app.state.server
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_CLOSE_SECONDS,
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
        lifespan="off",
    )
    state.memory_file.start()
    try:
        with bound:
            _Server(config, state, on_ready).run([bound])
    finally:
        state.engine.drain(0)
        state.memory_file.close()
