"""Peak memory: of a process or a CUDA device while methods run, and of the tensors of a single action."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_RESET_PEAK = "5"  # the value of clear_refs that makes Linux forget the high-water mark


class MemoryMeter:
    """Measures nothing; its subclasses measure the peak memory since the last reset.

    Attributes:
        source: What is measured, in words.
    """

    source = "not measured"

    def reset(self) -> None:
        """Forget the peak."""

    def peak_bytes(self) -> int | None:
        """Return the peak since the last reset; None if nothing is measured."""
        return None


class CudaMeter(MemoryMeter):
    """Memory given out by torch's CUDA allocator, the model included."""

    source = "torch.cuda.max_memory_allocated, model included"

    def reset(self) -> None:
        """Forget the peak."""
        torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self) -> int:
        """Return the peak."""
        return torch.cuda.max_memory_allocated()


class ResidentSetMeter(MemoryMeter):
    """The resident set of this process on Linux: its high-water mark, which the kernel can reset.

    Args:
        process: The folder of the process under /proc.
    """

    source = "high-water mark of the process's resident set (VmHWM, reset before each call), model included"

    def __init__(self, process: Path = Path("/proc/self")) -> None:
        self._process = process

    def works(self) -> bool:
        """Return whether this system has the files, and allows the reset."""
        try:
            self.reset()
            return self.peak_bytes() > 0
        except (OSError, StopIteration):
            return False

    def reset(self) -> None:
        """Forget the peak."""
        (self._process / "clear_refs").write_text(_RESET_PEAK)

    def peak_bytes(self) -> int:
        """Return the peak."""
        lines = (self._process / "status").read_text().splitlines()
        kibibytes = next(line.split()[1] for line in lines if line.startswith("VmHWM:"))
        return int(kibibytes) * 2**10


def memory_meter(device: torch.device) -> MemoryMeter:
    """Return a meter for this device; one that measures nothing if there is no other."""
    if device.type == "cuda":
        return CudaMeter()
    resident = ResidentSetMeter()
    return resident if device.type == "cpu" and resident.works() else MemoryMeter()


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
