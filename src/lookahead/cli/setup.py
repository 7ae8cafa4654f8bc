"""What commands share: threads, loading the model, the console for messages, checks of output files."""

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
"""The console for messages, on stderr: stdout carries results only."""


def describe_call(program: str = "lookahead") -> dict[str, str]:
    """Return the date and the command line, for a report; `program` is what comes before the arguments."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"{program} {shlex.join(sys.argv[1:])}".rstrip(),
    }


def describe_file(path: Path) -> dict[str, str]:
    """Return the name and SHA-256 of a data file, for a report."""
    return {"data": path.name, "data_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def check_can_write(path: Path) -> None:
    """Check that a file can be written, before hours of measuring rather than after.

    Raises:
        NotFoundError: The folder does not exist or is not writable.
    """
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        message = f"cannot write {path}; give a file in a folder that exists and is writable"
        raise NotFoundError(message)


def warn_when_busy(environment: dict[str, Any]) -> None:
    """Warn if other processes use the machine during a measurement."""
    load, threads = environment["load_average_at_start"], environment["threads"]
    if load is not None and load > threads:
        notices.print(
            f"warning: the load average is {load}, above the {threads} threads used: other processes are "
            "running, so do not trust the figures",
            style="yellow",
        )


def prepare_model(
    name: str, dtype: str, device: str | None, threads: int | None
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Set the number of CPU threads and load the model and its tokenizer.

    Args:
        name: As for `lookahead.hf.models.loading.load_model`.
        dtype: Name of the dtype.
        device: Name of a torch device; None chooses one.
        threads: Number of CPU threads; None takes the number of physical cores.
    """
    with notices.status(f"loading {name} in {dtype} (the first time takes a while)"):
        set_threads(threads)

        from lookahead.hf.models.loading import load_model

        return load_model(name, dtype, device)


def set_threads(threads: int | None) -> None:
    """Set the number of CPU threads; None takes the number of physical cores."""
    import torch

    from lookahead.bench.run.environment import physical_cores

    torch.set_num_threads(threads or physical_cores())
