"""What is said about a body that is not allowed."""

from collections.abc import Mapping, Sequence
from typing import Any

from lookahead.server.http.errors import ApiError

_MAX_MESSAGE = 300


def body_error(faults: Sequence[Any]) -> ApiError:
    """Return an error for the faults that pydantic found in a body; it names the first."""
    fault: Mapping[str, Any] = faults[0]
    kind = str(fault.get("type", ""))
    message = str(fault.get("msg", "it is malformed")).removeprefix("Value error, ")
    where = [str(part) for part in fault.get("loc", ()) if part != "body"]
    if kind == "json_invalid":
        return ApiError(400, "the body is not valid JSON; send an object", code="invalid_json")
    name = ".".join(where)[:_MAX_MESSAGE]
    if not name:
        return ApiError(400, f"the body is not allowed: {message}"[:_MAX_MESSAGE])
    return ApiError(400, f"{name}: {message}"[:_MAX_MESSAGE], param=name)
