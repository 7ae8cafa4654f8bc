"""The threads of the CPU decoder: torch's own, since a second pool would fight them for the cores."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import torch


@dataclass(frozen=True)
class ThreadTeam:
    """The OpenMP library that torch has loaded.

    Attributes:
        parallel: `GOMP_parallel(function, data, threads, flags)`.
        yield_core: Address of `sched_yield`, which lets another thread have the core.
        thread_index: Address of `omp_get_thread_num`.
        thread_count: Address of `omp_get_num_threads`.
    """

    parallel: Callable[[int, int, int, int], Any]
    yield_core: int
    thread_index: int
    thread_count: int
    _lock: Lock = field(default_factory=Lock, compare=False)

    def run(self, function: int, data: int, threads: int) -> None:
        """Call a C function with the address of its data, in at most `threads` threads at once.

        OpenMP may give fewer: within a parallel region, at its limit of threads, with `OMP_DYNAMIC`.
        """
        with self._lock:  # two teams on the same cores would wait for each other at every barrier
            self.parallel(function, data, threads, 0)


@cache
def torch_thread_team() -> ThreadTeam | None:
    """Return the threads that torch computes with; None if torch was built without OpenMP."""
    libraries = sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"))
    for library in libraries:
        loaded = ctypes.CDLL(str(library))  # also finds the functions of the libraries that it has loaded
        try:
            parallel = loaded.GOMP_parallel
            names = (ctypes.CDLL(None).sched_yield, loaded.omp_get_thread_num, loaded.omp_get_num_threads)
        except AttributeError:
            continue
        parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        parallel.restype = None
        addresses = [ctypes.cast(function, ctypes.c_void_p).value or 0 for function in names]
        return ThreadTeam(parallel, addresses[0], addresses[1], addresses[2])
    return None
