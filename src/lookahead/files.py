"""Writing files so that nobody ever reads half of one, whatever happens meanwhile."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield where to write a file or folder; at the end it is on the disk and then moved to `path`.

    Whatever is raised meanwhile leaves `path` as it was, and nothing beside it.

    Raises:
        OSError: it cannot be written, for one because there is no such folder.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as aside:
        partial = Path(aside) / path.name
        yield partial
        for part in partial.rglob("*") if partial.is_dir() else [partial]:
            if part.is_file():
                _sync(part, os.O_RDWR)
        partial.replace(path)
    with contextlib.suppress(OSError):  # where folders cannot be opened, the move is as lasting as it gets
        _sync(path.parent, os.O_RDONLY)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all.

    Raises:
        OSError: it cannot be written.
        TypeError, ValueError: JSON cannot hold the content.
    """
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
