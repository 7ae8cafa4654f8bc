"""Writing files atomically: a reader sees the old file or the new one, never a part."""

import contextlib
import errno
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a file or folder; on success, sync it to disk and move it to `path`.

    If the block raises, `path` stays as it was and the temporary file is removed. A symbolic link stays one:
    what it leads to is written.

    Raises:
        OSError: It cannot be written, for example because the folder does not exist.
    """
    path = replaced_by(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as aside:
        partial = Path(aside) / path.name
        yield partial
        for part in partial.rglob("*") if partial.is_dir() else [partial]:
            if part.is_file():
                _sync(part, os.O_RDWR)
        partial.replace(path)
    with contextlib.suppress(OSError):  # some systems cannot open folders; the move is done
        _sync(path.parent, os.O_RDONLY)


def replaced_by(path: Path) -> Path:
    """Return the path of the file that writing to `path` replaces: the end of its symbolic links.

    Raises:
        OSError: The links lead in a circle, or to a device or a pipe, which no file must replace.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = None
    if mode is not None and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "it is a device or a pipe, not a file", str(path))
    return Path(os.path.realpath(path))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically. A lone surrogate, as in the name of a file, is escaped.

    Raises:
        OSError: It cannot be written.
        TypeError: JSON cannot hold a value.
        ValueError: A number is not finite.
    """
    with (
        atomic_write(path) as partial,
        partial.open("w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        json.dump(content, file, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
