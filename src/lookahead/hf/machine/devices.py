"""The device that a model is put on, and names of processors."""

import platform
from pathlib import Path

import torch

from lookahead.errors import ConfigError, first_line


def resolve_device(device: str | None) -> torch.device:
    """Return the torch device of that name; None is the first CUDA device, or the CPU if there is none.

    Raises:
        ConfigError: Torch does not know the name, or cannot use such a device on this machine.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        resolved = torch.device(device)
    except RuntimeError:
        message = f"device={device!r} is not allowed; give a device that torch knows: cpu, cuda, cuda:0, …"
        raise ConfigError(message) from None
    try:
        torch.zeros(1, device=resolved).item()
    except Exception as error:  # torch raises an assertion, a RuntimeError or a NotImplementedError
        usable = "cpu, or cuda" if torch.cuda.is_available() else "cpu"
        why = first_line(error).partition(". ")[0]
        message = f"device={device!r} cannot be used on this machine ({why}); give {usable}"
        raise ConfigError(message) from error
    return resolved


def cpu_model() -> str:
    """Return the name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
