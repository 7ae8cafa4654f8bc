"""Compiling the draft kernels: once, cached on disk where that is possible, in memory where it is not."""

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from inspect import getfile
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

logger = logging.getLogger("lookahead")

_SECONDS_BEFORE_A_WORD = 1.0
_SIGNS_OF_KERNELS = (b"kernel\n", b"llvmlite", b"IntEnum")
"""What stands in a module with kernels, with what builds their code, or with constants that go into it."""


def kernel(function: Kernel) -> Kernel:
    """Compile a pure function over arrays on first call; it releases the GIL while it runs.

    The machine code is cached beside the source or in numba's cache folder. Where neither can be written
    (a read-only container) it is compiled in memory, at each start of the process.
    """
    return _compiled(function, counts_references=True)


def lean_kernel(function: Kernel) -> Kernel:
    """Compile a kernel that allocates nothing, and is called by Python only if it returns no array either.

    It counts no references to arrays, which would cost several times what it does.
    """
    return _compiled(function, counts_references=False)


def pointer_kernel(function: Kernel) -> Kernel:
    """Compile a kernel that other kernels call with pointers; it counts no references and is not inlined."""
    return cast("Kernel", _cached(numba.njit, function, (), {"nogil": True, "_nrt": False}))


def shared_kernel(function: Kernel) -> Any:
    """Compile, when it is defined, a kernel that C calls with one address; its own is in `.address`."""
    return _cached(numba.cfunc, function, ("void(voidptr)",), {"_nrt": False})


def _compiled(function: Kernel, *, counts_references: bool) -> Kernel:
    options: dict[str, Any] = {"nogil": True}
    if not counts_references:
        options["_nrt"] = False
        options["forceinline"] = True  # a call hands over every field of every array, which costs a third
    return cast("Kernel", _cached(numba.njit, function, (), options))


def _cached(
    compiler: Any, function: Callable[..., Any], signature: tuple[str, ...], options: dict[str, Any]
) -> Any:
    # Cached code holds that of the kernels it calls, but numba looks for changes in its own file alone:
    # naming the cache's file after all kernels keeps an upgrade from running half of the old version.
    function.__qualname__ += f"-{_kernels_digest(Path(getfile(function)).parent)}"
    try:
        return compiler(*signature, cache=True, **options)(function)
    except RuntimeError:  # numba found no folder that it may write to
        return compiler(*signature, **options)(function)


@cache
def _kernels_digest(folder: Path) -> str:
    """Return a digest of a package's modules that define kernels or what they are made of."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        source = path.read_bytes()
        if any(sign in source for sign in _SIGNS_OF_KERNELS):
            digest.update(source)
    return digest.hexdigest()[:12]


@contextmanager
def telling_the_user() -> Iterator[None]:
    """Say what is going on if compiling takes longer than a moment."""
    timer = threading.Timer(
        _SECONDS_BEFORE_A_WORD,
        logger.warning,
        ["compiling the kernels; this happens once per installation and takes about half a minute"],
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
