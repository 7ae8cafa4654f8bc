"""Peak memory of a process or a CUDA device while methods run."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lookahead.bench.run.measuring import Run
from lookahead.bench.run.results import BenchmarkResult

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


def metered(measure: Callable[..., Run], meter: MemoryMeter) -> Callable[..., Run]:
    """Return a way of measuring a call that measures its peak memory, too."""

    def measured(*arguments: Any, **options: Any) -> Run:
        meter.reset()
        run = measure(*arguments, **options)
        return replace(run, peak_bytes=meter.peak_bytes())

    return measured


def summarise_peak_memory(benchmark: BenchmarkResult, methods: Iterable[str], source: str) -> dict[str, Any]:
    """Return the peak memory of each method in MiB, JSON-serialisable."""
    peaks = {
        method: max(result.runs[method].peak_bytes or 0 for result in benchmark.results) for method in methods
    }
    return {
        "source": source,
        "mebibytes": {method: round(peak / 2**20, 1) for method, peak in peaks.items()},
    }
