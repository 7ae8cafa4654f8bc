"""The threads that work on a step: torch's own, so that no second pool of threads fights it for the cores."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import torch


@dataclass(frozen=True)
class Team:
    """OpenMP as torch loaded it.

    Attributes:
        run: `GOMP_parallel(function, data, threads, flags)`.
        barrier: address of what waits for all members.
        member: address of what tells a member its number.
        members: address of what tells how many there are.
    """

    run: Callable[[int, int, int, int], Any]
    barrier: int
    member: int
    members: int
    _alone: Lock = field(default_factory=Lock, compare=False)

    def work(self, function: int, data: int) -> None:
        """Have as many threads as torch computes with call a C function with the address of its data."""
        with self._alone:  # two teams on the same cores would wait for each other at every meeting
            self.run(function, data, torch.get_num_threads(), 0)


@cache
def torch_team() -> Team | None:
    """Return the team that torch computes with; None where it does so with something other than OpenMP."""
    libraries = sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"))
    for library in libraries:
        loaded = ctypes.CDLL(str(library))  # finds what it has loaded itself as well
        try:
            run = loaded.GOMP_parallel
            names = (loaded.GOMP_barrier, loaded.omp_get_thread_num, loaded.omp_get_num_threads)
        except AttributeError:
            continue
        run.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        run.restype = None
        addresses = [ctypes.cast(function, ctypes.c_void_p).value or 0 for function in names]
        return Team(run, addresses[0], addresses[1], addresses[2])
    return None
