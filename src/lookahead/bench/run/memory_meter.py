"""The most memory that a call takes: CUDA's allocator says it, or Linux the process's resident set."""

from pathlib import Path
from typing import Protocol

import torch

_RESET_PEAK = "5"  # what the kernel takes, in clear_refs, for "forget the high-water mark"


class MemoryMeter(Protocol):
    """Measures the most memory taken since the last reset.

    Attributes:
        source: what is measured, in words.
    """

    source: str

    def reset(self) -> None:
        """Begin anew."""

    def peak_bytes(self) -> int | None:
        """Return the most bytes taken since; None where nothing is measured."""


class NoMeter:
    """Measures nothing."""

    source = "not measured"

    def reset(self) -> None:
        """Do nothing."""

    def peak_bytes(self) -> None:
        """Return None."""


class CudaMeter:
    """What torch's CUDA allocator has given out, model included."""

    source = "torch.cuda.max_memory_allocated, model included"

    def reset(self) -> None:
        """Forget the peak."""
        torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self) -> int:
        """Return the peak."""
        return torch.cuda.max_memory_allocated()


class ResidentSetMeter:
    """The resident set of this process (Linux): its high-water mark, which the kernel lets us reset.

    Args:
        process: the process's folder under /proc.
    """

    source = "high-water mark of the process's resident set (VmHWM, reset before each call), model included"

    def __init__(self, process: Path = Path("/proc/self")) -> None:
        self._process = process

    def works(self) -> bool:
        """Return whether this system has the files, and lets us write."""
        try:
            self.reset()
            return self.peak_bytes() > 0
        except (OSError, StopIteration):
            return False

    def reset(self) -> None:
        """Forget the high-water mark."""
        (self._process / "clear_refs").write_text(_RESET_PEAK)

    def peak_bytes(self) -> int:
        """Return the high-water mark."""
        lines = (self._process / "status").read_text().splitlines()
        kibibytes = next(line.split()[1] for line in lines if line.startswith("VmHWM:"))
        return int(kibibytes) * 2**10


def memory_meter(device: torch.device) -> MemoryMeter:
    """Return what measures peak memory on this device; where nothing can, what measures nothing."""
    if device.type == "cuda":
        return CudaMeter()
    resident = ResidentSetMeter()
    return resident if device.type == "cpu" and resident.works() else NoMeter()
