"""What commands share: threads, loading the model, the console for messages, checks of output files."""

import hashlib
import os
import shlex
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.status import Status

from lookahead.errors import ConfigError, NotFoundError
from lookahead.files import replaced_by, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

INTERRUPTED = 130
"""The exit code of a program that Ctrl-C ended."""
MAX_THREADS = 1024
THREADS_VARIABLE = "OMP_NUM_THREADS"


class _Notices(Console):
    """A console that shows texts as they are: names of models and files may look like markup."""

    def status(self, status: RenderableType, **settings: Any) -> Status:
        """Return a status line; it shows a string as it is."""
        return super().status(escape(status) if isinstance(status, str) else status, **settings)


notices = _Notices(stderr=True, markup=False)
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
        NotFoundError: It is a folder or a device, or its folder does not exist or is not writable.
    """
    try:
        target = replaced_by(path)
    except OSError as error:
        message = (
            f"cannot write {path} ({error.strerror}); give a file in a folder that exists and is writable"
        )
        raise NotFoundError(message) from error
    if path.is_dir() or not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        message = f"cannot write {path}; give a file in a folder that exists and is writable"
        raise NotFoundError(message)


def deliver(json: Path | None, report: dict[str, Any], show: Callable[[], None]) -> None:
    """Write a report to a file if one is wanted, and show it.

    It is shown even if the file cannot be written, and written before a reader of stdout can go away.

    Raises:
        OSError: The file cannot be written; the file that was there is as it was.
    """
    try:
        if json is not None:
            _write_report(json, report)
    finally:
        show()


def _write_report(path: Path, report: dict[str, Any]) -> None:
    try:
        write_json(path, report)
    except OSError as error:  # about the temporary file
        raise OSError(error.errno, error.strerror, str(path)) from error


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
    name: str, dtype: str, device: str | None, threads: int | None, *, packed: bool | None = False
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Set the number of CPU threads and load the model and its tokenizer.

    Args:
        name: As for `lookahead.hf.models.loading.load_model`.
        dtype: Name of the dtype.
        device: Name of a torch device; None chooses one.
        threads: As for `set_threads`.
        packed: Whether the weights stay in a GGUF file's blocks; None if they can.

    Raises:
        ConfigError: The number of threads, the dtype or the device is not allowed.
        UnsupportedModelError: Weights that are to stay packed cannot.
    """
    with notices.status(f"loading {name} in {dtype} (the first time takes a while)"):
        set_threads(threads)

        from lookahead.hf.models.loading import load_model, load_packed_if_possible

        if packed is None:
            return load_packed_if_possible(name, dtype, device)
        return load_model(name, dtype, device, packed=packed)


def set_threads(threads: int | None) -> None:
    """Set the number of CPU threads.

    Args:
        threads: None takes `OMP_NUM_THREADS`, or without it the number of physical cores.

    Raises:
        ConfigError: The number is out of range, or `OMP_NUM_THREADS` is malformed.
    """
    chosen = _threads_of_environment() if threads is None else threads
    if chosen is not None and not 1 <= chosen <= MAX_THREADS:
        where = THREADS_VARIABLE if threads is None else "--threads"
        message = f"{where}={chosen} is not allowed; give an integer from 1 to {MAX_THREADS}"
        raise ConfigError(message)

    import torch

    from lookahead.bench.run.environment import physical_cores

    torch.set_num_threads(chosen or physical_cores())


def _threads_of_environment() -> int | None:
    """Return the first number of `OMP_NUM_THREADS`, which may have one for each level of nesting."""
    listed = os.environ.get(THREADS_VARIABLE, "").strip()
    if not listed:
        return None
    try:
        first, *_others = [int(number) for number in listed.split(",")]
    except ValueError:
        message = (
            f"{THREADS_VARIABLE}={listed!r} is not allowed; set it to a positive integer, unset it, or give "
            "--threads"
        )
        raise ConfigError(message) from None
    return first
