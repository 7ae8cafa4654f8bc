"""ASGI middleware: the id of each request, and how long its body may be."""

import re
import uuid
from collections.abc import Callable, Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lookahead.server.http.errors import ApiError, told_error

_MAX_ID = 128
_PORT = re.compile(r":\d*$")


class RequestIds:
    """Gives each request an id, the client's own (`x-request-id`) or a new one, and returns it.

    Args:
        app: The application.
        count: Called with the status of each response.
    """

    def __init__(self, app: ASGIApp, *, count: Callable[[int], None]) -> None:
        self._app, self._count = app, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        is_fine = 0 < len(given) <= _MAX_ID and given.isascii() and given.isprintable()
        request_id = given if is_fine else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        is_begun = False

        async def send_with_id(message: Message) -> None:
            nonlocal is_begun
            is_begun = True
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
                self._count(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:  # noqa: BLE001  whatever went wrong is a 500, and in the log
            told = told_error(error, request_id)
            if is_begun:
                return
            await JSONResponse(told.body, told.status, told.headers)(scope, receive, send_with_id)


class HostCheck:
    """Refuses requests to another name than this server's.

    Args:
        app: The application.
        allowed: The names.
    """

    def __init__(self, app: ASGIApp, *, allowed: Collection[str]) -> None:
        self._app, self._allowed = app, allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        given = Headers(scope=scope).get("host", "") if scope["type"] == "http" else ""
        name = _PORT.sub("", given).lower()
        if not given or name in self._allowed:
            await self._app(scope, receive, send)
            return
        message = f"this server is not {name!r:.80}; see --allowed-host and --api-key"
        error = ApiError(400, message, code="host_not_allowed")
        await JSONResponse(error.body, status_code=400)(scope, receive, send)


class BodyLimit:
    """Refuses bodies that are too long, also those that do not say how long they are.

    Args:
        app: The application.
        max_bytes: The longest body.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes
        self._message = f"the body is longer than {max_bytes} bytes; send less"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("content-length", "0")
        if given.isascii() and given.isdigit() and int(given[:20]) > self._max_bytes:
            await self._refuse(scope, receive, send)
            return
        received = 0

        async def limited_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:  # an exception of this type passes through FastAPI's reading
                raise HTTPException(413, self._message)
            return message

        await self._app(scope, limited_receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = ApiError(413, self._message)
        headers = {"connection": "close"}
        await JSONResponse(error.body, status_code=413, headers=headers)(scope, receive, send)
