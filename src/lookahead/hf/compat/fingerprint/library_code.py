"""Whose code a function is: by the file it comes from, and by what it says.

The compiled CPU decoder stands in for functions of transformers, so these must be known by their code: a
function that was replaced may act only in long texts, which no trial sees.
"""

import ast
import hashlib
import inspect
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import (
    BuiltinFunctionType,
    BuiltinMethodType,
    ClassMethodDescriptorType,
    CodeType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    WrapperDescriptorType,
)
from typing import Any

LIBRARIES = (
    *("torch", "transformers", "accelerate", "peft", "kernels"),
    *("flash_attn", "fla", "mamba_ssm", "causal_conv1d", "einops", "numpy", "xformers"),
)
"""torch, transformers, and what they call. None of them is needed but the first two."""

_BUILT_IN = (
    BuiltinFunctionType,
    BuiltinMethodType,
    ClassMethodDescriptorType,
    MethodDescriptorType,
    MethodWrapperType,
    WrapperDescriptorType,
)
_COMPARED = (
    *("co_code", "co_flags", "co_argcount", "co_posonlyargcount", "co_kwonlyargcount"),
    *("co_names", "co_varnames", "co_freevars", "co_cellvars"),
)


def comes_from_libraries(function: object) -> bool:
    """Return whether a function, and each that it wraps, is code of `LIBRARIES` or of Python itself."""
    waiting: list[Any] = [function]
    seen: set[int] = set()
    while waiting:
        found = waiting.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        found = getattr(found, "__func__", found)
        if isinstance(found, _BUILT_IN):
            continue
        code = getattr(found, "__code__", None)
        if not isinstance(code, CodeType) or not _is_of_libraries(code.co_filename):
            return False
        waiting += _wrapped(found)
    return True


def innermost(function: Any) -> Any:
    """Return the function inside all wrappers."""
    return inspect.unwrap(getattr(function, "__func__", function))


def known_digest(function: Any) -> str | None:
    """Return the digest of a function's code, without annotations, docstrings and comments.

    None if its code is not what its file says: it was replaced, or the file is not there.
    """
    code = getattr(innermost(function), "__code__", None)
    if not isinstance(code, CodeType):
        return None
    try:
        codes, digests = _source(code.co_filename)
    except (OSError, SyntaxError, ValueError):
        return None
    written = codes.get(code.co_qualname)
    return digests.get(code.co_qualname) if written is not None and _is_same(code, written) else None


def digest_of(node: ast.AST) -> str:
    """Return the digest of a function's syntax tree, which loses its annotations and docstrings."""
    for part in ast.walk(node):
        if (
            isinstance(part, ast.FunctionDef | ast.ClassDef)
            and ast.get_docstring(part, clean=False) is not None
        ):
            part.body = part.body[1:] or [ast.Pass()]
        if isinstance(part, ast.FunctionDef):
            part.returns = None
        if isinstance(part, ast.arg):
            part.annotation = None
    return hashlib.sha256(ast.unparse(node).encode()).hexdigest()[:12]


def functions_in(source: str) -> dict[str, str]:
    """Return the digest of each function of a module's source, by qualified name."""
    found: dict[str, str] = {}
    waiting: list[tuple[str, Any]] = [("", ast.parse(source))]
    while waiting:
        prefix, node = waiting.pop()
        for part in node.body:
            if isinstance(part, ast.ClassDef):
                waiting.append((f"{prefix}{part.name}.", part))
            elif isinstance(part, ast.FunctionDef):
                found[prefix + part.name] = digest_of(part)
    return found


@cache
def _folders() -> tuple[str, ...]:
    found = (find_spec(library) for library in LIBRARIES)
    return tuple(str(Path(spec.origin).parent) + os.sep for spec in found if spec is not None and spec.origin)


@cache
def _is_of_libraries(path: str) -> bool:
    if path.startswith(_folders()):
        return True
    is_installed = "site-packages" in path or "dist-packages" in path  # may lie in the folder of Python's own
    return path.startswith(str(Path(os.__file__).parent) + os.sep) and not is_installed


@cache
def _source(path: str) -> tuple[dict[str, CodeType], dict[str, str]]:
    """Return the code and the digest of each function in a file, by qualified name."""
    source = Path(path).read_text(encoding="utf-8")
    codes: dict[str, CodeType] = {}
    waiting = [compile(source, path, "exec", dont_inherit=True)]
    while waiting:
        for constant in waiting.pop().co_consts:
            if isinstance(constant, CodeType):
                codes[constant.co_qualname] = constant
                waiting.append(constant)
    return codes, functions_in(source)


def _is_same(one: CodeType, other: CodeType) -> bool:
    """Return whether two code objects do the same; counters that the interpreter keeps in them differ."""
    if any(getattr(one, name) != getattr(other, name) for name in _COMPARED):
        return False
    if len(one.co_consts) != len(other.co_consts):
        return False
    return all(
        _is_same(first, second)
        if isinstance(first, CodeType) and isinstance(second, CodeType)
        else type(first) is type(second) and first == second
        for first, second in zip(one.co_consts, other.co_consts, strict=True)
    )


def _wrapped(function: Any) -> list[Any]:
    """Return the functions that a function wraps or calls out of its closure."""
    found = [function.__wrapped__] if hasattr(function, "__wrapped__") else []
    for cell in function.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:  # not yet filled
            continue
        if isinstance(content, FunctionType | MethodType):
            found.append(content)
    return found
