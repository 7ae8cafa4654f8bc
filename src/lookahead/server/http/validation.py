"""What is said about a body that is not allowed."""

from collections.abc import Mapping, Sequence
from typing import Any

from lookahead.server.http.errors import ApiError

_MAX_MESSAGE = 300


def body_error(faults: Sequence[Any], *, is_json: bool = True) -> ApiError:
    """Return an error for the faults that pydantic found in a body; it names the most particular one.

    Args:
        faults: What pydantic found: of a field with alternatives, the faults of each.
        is_json: Whether the header said so.
    """
    if not is_json:
        message = "the body is not read without the header 'Content-Type: application/json'"
        return ApiError(400, message, code="content_type")
    fault: Mapping[str, Any] = max(enumerate(faults), key=lambda one: (len(one[1]["loc"]), one[0]))[1]
    kind = str(fault.get("type", ""))
    message = str(fault.get("msg", "it is malformed")).removeprefix("Value error, ")
    if kind == "json_invalid":
        return ApiError(400, "the body is not valid JSON; send an object", code="invalid_json")
    where = [str(part) for part in fault.get("loc", ()) if part != "body" and not _is_alternative(part)]
    name = ".".join(where)[:_MAX_MESSAGE]
    if not name:
        return ApiError(400, f"the body is not allowed: {message}"[:_MAX_MESSAGE])
    return ApiError(400, f"{name}: {message}"[:_MAX_MESSAGE], param=name)


def _is_alternative(part: object) -> bool:
    """Return whether a part of a location is pydantic's name of an alternative, not one of a field."""
    return isinstance(part, str) and (part in _TYPES or any(mark in part for mark in "[(-"))


_TYPES = {"str", "int", "float", "bool", "list", "dict", "NamedTool", "FlatNamedTool"}
