"""Copies of what was converted from a GGUF file: made once, kept in the user's cache folder with digests.

Only a copy that is damaged itself is made again.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from lookahead.errors import first_line
from lookahead.files import temporary_folder, try_lock, write_json
from lookahead.hf.machine.cache_folder import atomic_cache_write
from lookahead.hf.models.gguf import quiet_transformers

_DIGESTS = "lookahead-digests.json"

logger = logging.getLogger("lookahead")

Read = TypeVar("Read")


def load_copy(folder: Path | None, read: Callable[[Path], Read]) -> Read | None:
    """Read a copy's folder with `read`; return None if the copy is missing or damaged.

    An error that has nothing to do with the copy, such as no memory left, is the caller's.
    """
    if folder is None or not folder.is_dir():
        return None
    try:
        with _locked(folder, shared=True), quiet_transformers():
            return read(folder)
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # noqa: BLE001  whatever is wrong with the copy, the GGUF file is still right
        logger.warning(
            "the cached model in %s cannot be read (%s); converting it again", folder, first_line(error)
        )
        _remove_damaged(folder)
        return None


def _is_damaged(folder: Path) -> bool:
    """Return whether a file of a copy is missing or not what was stored; not one that may not be read."""
    try:
        stored = json.loads((folder / _DIGESTS).read_bytes())
        return not stored or any(file_digest(folder / name) != digest for name, digest in stored.items())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return True  # copies of earlier releases have no digests
    except (ValueError, AttributeError):
        return True
    except OSError:
        return False


def _remove_damaged(folder: Path) -> None:
    """Remove a damaged copy as a whole, unless another process is reading it."""
    with contextlib.suppress(OSError), _locked(folder, shared=False) as is_free:
        if is_free and _is_damaged(folder):
            with temporary_folder(folder.parent) as aside:
                folder.rename(aside / folder.name)


@contextlib.contextmanager
def _locked(folder: Path, *, shared: bool) -> Iterator[bool]:
    """Hold a copy's lock, if there are locks here; yield False if another process holds it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # some systems cannot open folders
        yield True
        return
    try:
        yield try_lock(descriptor, shared=shared) is not False
    finally:
        os.close(descriptor)


def store_copy(parts: Sequence[Any], folder: Path | None) -> None:
    """Keep objects with a `save_pretrained` if the cache folder can be written and has no copy."""
    if folder is None or folder.exists():
        return
    with (
        contextlib.suppress(OSError, SafetensorError),
        atomic_cache_write(folder) as partial,
        quiet_transformers(),
    ):
        for part in parts:
            part.save_pretrained(partial)
        files = [path for path in partial.rglob("*") if path.is_file()]
        write_json(
            partial / _DIGESTS,
            {str(path.relative_to(partial)): file_digest(path) for path in sorted(files)},
        )


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
