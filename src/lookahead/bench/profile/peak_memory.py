"""Peak memory of the tensors of an action."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def peak_tensor_bytes(action: Callable[[], object], device: torch.device) -> int:
    """Return the peak bytes of the tensors that an action allocates.

    On CUDA the allocator counts. On the CPU torch's profiler records every allocation, temporary tensors of
    operations included; this slows the action down. Bytes count when allocated, used or not.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        action()
        return int(torch.cuda.max_memory_allocated(device)) - before
    with (
        _quiet_profiler(),
        torch.autograd.profiler.profile(use_kineto=False, profile_memory=True) as profiled,
    ):
        action()
    recorded: Any = profiled.kineto_results
    return highest_sum(event.nbytes() for event in recorded.events() if event.name() == "[memory]")


def highest_sum(changes: Iterable[int]) -> int:
    """Return the highest running sum of allocations (positive) and frees (negative); at least 0."""
    total = highest = 0
    for change in changes:
        total += change
        highest = max(highest, total)
    return highest


@contextmanager
def _quiet_profiler() -> Iterator[None]:
    """Keep the profiler's library from printing on stderr when it starts and stops."""
    name, only_worse_than_errors = "KINETO_LOG_LEVEL", "6"
    before = os.environ.get(name)
    os.environ.setdefault(name, only_worse_than_errors)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
