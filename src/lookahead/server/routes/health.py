"""`/health`, `/metrics`, and the page at `/`."""

from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import HTMLResponse, Response

from lookahead.server.http.errors import ApiError
from lookahead.server.state import state_of

router = APIRouter()


@router.get("/health")
@router.head("/health", include_in_schema=False)
def health(request: HttpRequest) -> Response:
    """Return 200 while requests are taken."""
    state = state_of(request)
    if state.is_draining or not state.engine.is_running:
        raise ApiError(503, "the server takes no more requests", code="draining")
    return Response()


@router.get("/metrics")
def metrics(request: HttpRequest) -> Response:
    """Return what Prometheus reads."""
    return Response(state_of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/", response_class=HTMLResponse)
def page() -> HTMLResponse:
    """Return the page: a chat that shows where each token came from."""
    headers = {"content-security-policy": _POLICY, "x-content-type-options": "nosniff"}
    return HTMLResponse(_page(), headers=headers)


_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
    "img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


@cache
def _page() -> str:
    return files("lookahead.server").joinpath("static", "index.html").read_text("utf-8")
