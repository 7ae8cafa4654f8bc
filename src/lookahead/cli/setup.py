"""What every command does before its own work: threads, model, one console for answers and one for words."""

import hashlib
import os
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lookahead.errors import NotFoundError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

notices = Console(stderr=True)
"""Where words about the work go, so that stdout carries only its result."""


def describe_call() -> dict[str, str]:
    """When a report was made, and by which command."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["lookahead", *sys.argv[1:]]),
    }


def describe_file(path: Path) -> dict[str, str]:
    """Which data a report is about: the file's name and the SHA-256 of what is in it."""
    return {"data": path.name, "data_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def check_can_write(path: Path) -> None:
    """Refuse a path whose folder is not there or not writable, before an hour of measuring rather than after.

    Raises:
        NotFoundError: there is no such folder, or it may not be written to.
    """
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        message = f"cannot write {path}; give a file in a folder that exists and may be written to"
        raise NotFoundError(message)


def warn_when_busy(environment: dict[str, Any]) -> None:
    """Say so where other processes take part of the machine that something is measured on."""
    load, threads = environment["load_average_at_start"], environment["threads"]
    if load is not None and load > threads:
        notices.print(
            f"warning: the load average is {load}, above the {threads} threads used: other processes are "
            "running, and the figures are not to be trusted",
            style="yellow",
        )


def prepare_model(
    name: str, dtype: str, device: str | None, threads: int | None
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Set the number of CPU threads and load the model, with a spinner meanwhile.

    Args:
        name: as `lookahead.hf.models.loading.load_model` takes it.
        dtype: the dtype's name.
        device: a torch device, or None to choose.
        threads: how many CPU threads; None takes the physical cores.
    """
    with notices.status(f"loading {name} in {dtype} (the first time takes a while)"):
        _set_threads(threads)

        from lookahead.hf.models.loading import load_model

        return load_model(name, dtype, device)


def prepare_random_model(
    shape: str, dtype: str, device: str | None, threads: int | None, *, layers: int | None
) -> "PreTrainedModel":
    """Set the number of CPU threads and make a model with random weights, with a spinner meanwhile.

    Args:
        shape: as `lookahead.hf.models.random_weights.random_model` takes it.
        dtype: the dtype's name.
        device: a torch device, or None to choose.
        threads: how many CPU threads; None takes the physical cores.
        layers: make only so many of its layers.
    """
    with notices.status(f"making {shape} of random weights in {dtype}"):
        _set_threads(threads)

        from lookahead.hf.models.random_weights import random_model

        return random_model(shape, dtype, device, layers=layers)


def _set_threads(threads: int | None) -> None:
    import torch

    from lookahead.bench.run.environment import physical_cores

    torch.set_num_threads(threads or physical_cores())
