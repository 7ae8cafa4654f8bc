"""`EventStream`: server-sent events that notice when their reader goes away."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lookahead.server.http.errors import told_error

PING_SECONDS = 15.0
"""A comment is sent when nothing was for so long: proxies close what is silent."""
_PING = b": ping\n\n"


def data(content: Any, event: str | None = None) -> bytes:
    """Return an event with JSON."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    head = "" if event is None else f"event: {event}\n"
    return f"{head}data: {text}\n\n".encode()


DONE = b"data: [DONE]\n\n"


class EventStream(Response):
    """Sends events as they come; when the client goes away, the events' source is closed at once.

    Args:
        events: Each is bytes to send.
        cancel: Ends what makes the events; called in every case. A client may leave before the first event is
            read, and an iterator that was never started has nothing to close.
        request_id: The request's id, for what went wrong.
        ends: What is sent after an error.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[bytes],
        *,
        cancel: Callable[[], None],
        request_id: str,
        ends: bytes = DONE,
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events, self._cancel = events, cancel
        self._request_id, self._ends = request_id, ends

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, and close their source whatever happens."""
        del scope
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._cancel()
            for task in (sending, leaving):
                task.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await sending

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        await send(start)
        try:
            async for event in with_pings(self._events):
                await send({"type": "http.response.body", "body": event, "more_body": True})
        except (asyncio.CancelledError, OSError):
            raise
        except Exception as error:  # noqa: BLE001  headers are sent: the error is an event
            body = told_error(error, self._request_id).body
            await send({"type": "http.response.body", "body": data(body) + self._ends, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def with_pings(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Return events, and comments while there are none."""
    waiting: asyncio.Future[bytes] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({waiting}, timeout=PING_SECONDS)
            if not done:
                yield _PING
                continue
            finished, waiting = waiting, None
            try:
                event = finished.result()
            except StopAsyncIteration:
                return
            yield event
    finally:
        if waiting is not None:
            waiting.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration):
                await waiting
        close: Callable[[], Awaitable[None]] | None = getattr(events, "aclose", None)
        if close is not None:
            await close()


async def unless_disconnected(
    request: Request, work: Awaitable[Any], cancel: Callable[[], None] = lambda: None
) -> Any:
    """Return a result, or cancel the work when the client goes away.

    Args:
        request: The client's.
        work: Makes the result; a client that has left already keeps it from starting.
        cancel: Ends what the work waits for; called in every case.

    Raises:
        ClientLeftError: The client went away.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.create_task(_disconnected(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientLeftError
    finally:
        cancel()
        leaving.cancel()
        working.cancel()
        if not working.done():
            with suppress(asyncio.CancelledError):
                await working


class ClientLeftError(Exception):
    """The client of a request went away."""


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
