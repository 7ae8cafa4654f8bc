"""Compiling the draft kernels: once, cached on disk where that is possible, in memory where it is not."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numba

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

logger = logging.getLogger("lookahead")

_SECONDS_BEFORE_A_WORD = 1.0


def kernel(function: Kernel) -> Kernel:
    """Compile a pure function over arrays on first call; it releases the GIL while it runs.

    The machine code is cached beside the source or in numba's cache folder. Where neither can be written
    (a read-only container) it is compiled in memory, at each start of the process.
    """
    try:
        compiled: Kernel = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba found no folder that it may write to
        compiled = numba.njit(nogil=True)(function)
    return compiled


@contextmanager
def telling_the_user() -> Iterator[None]:
    """Say what is going on if compiling takes longer than a moment."""
    timer = threading.Timer(
        _SECONDS_BEFORE_A_WORD,
        logger.warning,
        ["compiling the draft kernels; this happens once per installation and takes about half a minute"],
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
