"""`/v1/models`, `/version`."""

from typing import Any

from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest

from lookahead.server.state import ServerState, access_of, state_of
from lookahead.version import __version__

router = APIRouter()


@router.get("/v1/models", dependencies=[Depends(access_of)])
def models(request: HttpRequest) -> dict[str, Any]:
    """Return the one model that is served, in a list."""
    return {"object": "list", "data": [_model(state_of(request))]}


@router.get("/v1/models/{name:path}", dependencies=[Depends(access_of)])
def model(name: str, request: HttpRequest) -> dict[str, Any]:
    """Return a model."""
    state = state_of(request)
    state.check_model(name)
    return _model(state)


@router.get("/version")
def version() -> dict[str, str]:
    """Return the server's version."""
    return {"version": __version__}


def _model(state: ServerState) -> dict[str, Any]:
    return {
        "id": state.model.name,
        "object": "model",
        "created": state.model.created,
        "owned_by": "lookahead",
        "max_model_len": state.model.context,
    }
