"""`/lookahead/memory`: inspect, warm, save and forget the draft memory, with an administrator's key."""

from typing import Any

from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest

from lookahead.server.access import fault_in_client_name, without_salt
from lookahead.server.http.errors import ApiError
from lookahead.server.protocol.memory import ForgetBody, WarmBody
from lookahead.server.state import admin_access_of, state_of

router = APIRouter(prefix="/lookahead/memory", dependencies=[Depends(admin_access_of)])


@router.get("")
def inspect(request: HttpRequest) -> dict[str, Any]:
    """Return how many tokens each namespace has, and the bytes of all."""
    memory = state_of(request).memory
    return {"namespaces": memory.namespaces, "bytes": memory.nbytes}


@router.post("/warm")
def warm(body: WarmBody, request: HttpRequest) -> dict[str, Any]:
    """Remember texts as if they had been answers; return how many tokens."""
    state = state_of(request)
    _check_name(body.namespace)
    tokens = state.memory.warm(body.texts, tokenizer=state.model.tokenizer, namespace=body.namespace)
    return {"tokens": tokens}


@router.post("/save")
def save(request: HttpRequest) -> dict[str, Any]:
    """Save the memory to its file now."""
    if not state_of(request).memory_file.save():
        raise ApiError(
            400, "the server was started without --memory; there is no file", code="no_memory_file"
        )
    return {"saved": True}


@router.post("/forget")
def forget(body: ForgetBody, request: HttpRequest) -> dict[str, Any]:
    """Forget all that a namespace holds, under any salt; the prefix cache forgets all texts."""
    _check_name(body.namespace)
    state = state_of(request)
    for namespace in state.memory.namespaces:
        if without_salt(namespace) == body.namespace:
            state.memory.forget_namespace(namespace)
    state.engine.clear_prefixes()
    return {"forgotten": body.namespace}


def _check_name(namespace: str) -> None:
    fault = fault_in_client_name(namespace)
    if fault is not None:
        raise ApiError(400, f"namespace {namespace!r:.80} is not allowed: {fault}", param="namespace")
