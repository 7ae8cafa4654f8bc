"""ASGI middleware of a replica: who may ask without a key, and which replica answered."""

from ipaddress import ip_address

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lookahead.server.http.errors import ApiError

REPLICA_HEADER = "x-lookahead-replica"


class LocalClients:
    """Answers only clients on the proxy's own machine.

    A replica cannot know where Serve's proxies listen, so it looks at who asks.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http" or is_local(scope.get("client")):
            await self._app(scope, receive, send)
            return
        message = (
            "there is no API key, so only the proxy's own machine is answered; start the application with "
            "api_keys, or with allow_without_key if something in front of it checks who asks"
        )
        error = ApiError(403, message, code="key_needed")
        await JSONResponse(error.body, status_code=403)(scope, receive, send)


class ReplicaHeaders:
    """Adds the header `x-lookahead-replica` to each response, and leaves `x-request-id` to Serve's proxy.

    The proxy makes the request's id, or takes the client's, and adds it to the response by itself.

    Args:
        app: The application.
        name: The replica's name.
    """

    def __init__(self, app: ASGIApp, *, name: str) -> None:
        self._app, self._name = app, name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""

        async def send_with_name(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[REPLICA_HEADER] = self._name
                del headers["x-request-id"]
            await send(message)

        await self._app(scope, receive, send_with_name)


def is_local(client: object) -> bool:
    """Return whether an ASGI scope's client, an address and a port, is on the same machine."""
    if not isinstance(client, tuple | list) or not client:
        return False
    try:
        return ip_address(str(client[0])).is_loopback
    except ValueError:
        return False
