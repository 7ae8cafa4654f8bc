"""The machine and the versions that a benchmark ran on."""

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

import lookahead
from lookahead.hf.machine.devices import cpu_model
from lookahead.hf.machine.dtypes import dtype_name


def describe_environment(
    model: PreTrainedModel, model_name: str, load_average_at_start: float | None
) -> dict[str, Any]:
    """Return versions, hardware, threads and load as JSON-serialisable values."""
    device = model.device
    return {
        **describe_machine(load_average_at_start),
        "torch": torch.__version__,
        "transformers": _version("transformers"),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "model": model_name,
        "dtype": dtype_name(model.dtype),
    }


def describe_machine(load_average_at_start: float | None) -> dict[str, Any]:
    """Return versions, processor and load, without a model."""
    return {
        "lookahead": lookahead.__version__,
        "lookahead_commit": source_commit(),
        "python": platform.python_version(),
        "numpy": _version("numpy"),
        "numba": _version("numba"),
        "arctic_inference": _version("arctic-inference"),
        "system": platform.system(),
        "cpu": cpu_model(),
        "physical_cores": physical_cores(),
        "logical_cores": os.cpu_count(),
        "load_average_at_start": load_average_at_start,
    }


def load_average() -> float | None:
    """Return the load average of the last minute; None if the system does not report it."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def physical_cores() -> int:
    """Return the number of physical cores that this process may run on."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    siblings = [
        Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list") for processor in allowed
    ]
    try:
        return len({path.read_text() for path in siblings})
    except OSError:
        return len(allowed)


def source_commit() -> str | None:
    """Return the git commit of the running source, with `-dirty` if it was changed; None outside a clone."""
    here = Path(__file__).parent
    # An installed package may lie inside another repository, whose commit means nothing here.
    if _git(here, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    commit = _git(here, "rev-parse", "HEAD")
    changed = _git(here.parent, "status", "--porcelain", "--untracked-files=no", ".")
    return f"{commit}-dirty" if commit and changed else commit


def _git(folder: Path, *arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "-C", str(folder), *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  fixed arguments
    return finished.stdout.strip() if finished.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
