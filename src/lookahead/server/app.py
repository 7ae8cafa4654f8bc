"""`create_app`: the server as an ASGI application."""

from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.drafting.memory.memory_file import MemoryFile
from lookahead.drafting.store import DEFAULT_NAMESPACE
from lookahead.engine.protocol import Engine
from lookahead.errors import LookaheadError
from lookahead.server.answers.grammars import Grammars
from lookahead.server.http.errors import ApiError, api_error
from lookahead.server.http.limits import BodyLimit, HostCheck, RequestIds
from lookahead.server.http.streaming import ClientLeftError
from lookahead.server.http.validation import body_error
from lookahead.server.operation.metrics import Metrics
from lookahead.server.routes import all_routers
from lookahead.server.served_model import ServedModel
from lookahead.server.settings import ServerSettings
from lookahead.server.state import ServerState
from lookahead.version import __version__

_NOBODY_READS = 499
"""The status of an answer whose client went away; nginx's number."""


def create_app(engine: Engine, model: ServedModel, memory: DraftMemory, settings: ServerSettings) -> FastAPI:
    """Return the application; its `state.server` is the `ServerState`.

    Args:
        engine: Answers requests.
        model: What is known of the model.
        memory: The engine's draft memory.
        settings: The server's settings.
    """
    app = FastAPI(title="Lookahead", version=__version__, docs_url=None, redoc_url=None)
    metrics = Metrics(
        settings.metrics_prefix,
        model.name,
        engine,
        memory,
        # /metrics is open; with keys, the names of tenants stay within
        may_name=lambda name: settings.keys is None or name == DEFAULT_NAMESPACE,
    )
    app.state.server = ServerState(
        engine=engine,
        model=model,
        memory=memory,
        settings=settings,
        metrics=metrics,
        grammars=Grammars(model),
        memory_file=MemoryFile(
            memory, settings.memory_file, model.tokenizer, every_s=settings.save_memory_every_s
        ),
    )
    for router in all_routers():
        app.include_router(router)
    _add_error_handlers(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    if settings.allowed_hosts:
        app.add_middleware(HostCheck, allowed=settings.allowed_hosts)
    app.add_middleware(RequestIds, count=metrics.count_response)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    async def refuse_body(request: HttpRequest, error: Any) -> Response:
        is_json = "json" in request.headers.get("content-type", "")
        return _response(body_error(error.errors(), is_json=is_json))

    async def refuse(request: HttpRequest, error: Exception) -> Response:
        return _response(api_error(error, request.scope["state"]["request_id"]))

    async def refuse_route(_request: HttpRequest, error: Any) -> Response:
        status = error.status_code
        message = {404: "there is no such endpoint", 405: "this endpoint has another method"}.get(
            status, str(error.detail)
        )
        return _response(ApiError(400 if status == 422 else status, message))

    async def end(_request: HttpRequest, _error: Exception) -> Response:
        return Response(status_code=_NOBODY_READS)

    app.add_exception_handler(RequestValidationError, refuse_body)
    app.add_exception_handler(StarletteHTTPException, refuse_route)
    app.add_exception_handler(HTTPException, refuse_route)
    app.add_exception_handler(ClientLeftError, end)
    app.add_exception_handler(ApiError, refuse)
    app.add_exception_handler(LookaheadError, refuse)


def _response(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body, status_code=error.status, headers=error.headers)
