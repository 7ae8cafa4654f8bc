"""The user's cache folder: it keeps results that take long to compute; deleting it is safe."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lookahead.files import atomic_write


def user_cache_folder() -> Path | None:
    """Return Lookahead's cache folder, which may not exist yet; None if the user has no home."""
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        base = Path(root) if root else Path.home() / ".cache"
    except RuntimeError:
        return None
    return base / "lookahead"


@contextmanager
def atomic_cache_write(path: Path) -> Iterator[Path]:
    """Create the parent folder, then write a file or folder as `atomic_write` does.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        yield partial
