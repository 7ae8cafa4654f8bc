"""The most bytes of tensors that something needs at once."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def peak_bytes(action: Callable[[], object], device: torch.device) -> int:
    """Return the most bytes that tensors made within an action take at once, beyond what was there before.

    On CUDA the allocator is asked. On the CPU torch's profiler notes every allocation, temporary ones inside
    operations too; that slows the action down. Bytes count when allocated, written to or
    not.
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
    """Return the highest running sum of allocations, and frees as negative numbers; 0 at least."""
    total = highest = 0
    for change in changes:
        total += change
        highest = max(highest, total)
    return highest


@contextmanager
def _quiet_profiler() -> Iterator[None]:
    """Within, the profiler's library says nothing of its starts and stops on stderr."""
    name, only_worse_than_errors = "KINETO_LOG_LEVEL", "6"
    before = os.environ.get(name)
    os.environ.setdefault(name, only_worse_than_errors)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
