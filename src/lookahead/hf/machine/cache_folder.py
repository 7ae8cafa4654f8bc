"""The user's cache folder: what takes long to make is kept there, and whatever is missing is made again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lookahead.files import atomic_write


def user_cache_folder() -> Path | None:
    """Return Lookahead's folder under the user's cache, there yet or not; None where the user has no home."""
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        base = Path(root) if root else Path.home() / ".cache"
    except RuntimeError:
        return None
    return base / "lookahead"


@contextmanager
def atomic_cache_write(path: Path) -> Iterator[Path]:
    """Yield where to write a file or folder of the cache, as `atomic_write` does; its folder is made.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        yield partial
