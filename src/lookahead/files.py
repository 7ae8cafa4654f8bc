"""Writing files atomically: a reader sees the old file or the new one, never a part.

A file is written in a temporary folder beside it. A process that is killed leaves that folder behind; the
next write into the same folder removes it. It knows by a lock that no living process writes there.
"""

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    import fcntl

_PREFIX = ".partial-"
_OURS = re.compile(r"\.partial-([0-9a-f]{8}-)?[a-z0-9_]{8}")
"""Names of temporary folders; earlier releases gave no host."""
_LOCK = "lock"
_MAX_AGE_S = 24 * 3600
"""How long what another host, or a process that could not lock, writes may stay unchanged."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a file or folder; on success, sync it to disk and move it to `path`.

    If `path` is a symbolic link, its target is written and the link stays. If the block raises, `path` stays
    as it was and the temporary file is removed. Temporary files that dead processes left here are removed.

    Raises:
        OSError: It cannot be written, for example because the folder does not exist.
    """
    path = replaced_by(path)
    with temporary_folder(path.parent) as aside:
        partial = aside / path.name
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


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield an empty folder in `parent` that is removed afterwards, by the next one if this process dies.

    Raises:
        OSError: It cannot be made.
    """
    _remove_abandoned(parent)
    prefix = f"{_PREFIX}{_host()}-"
    with (
        tempfile.TemporaryDirectory(dir=parent, prefix=prefix, ignore_cleanup_errors=True) as folder,
        contextlib.ExitStack() as held,
    ):
        held.enter_context(_locked(Path(folder)))
        content = Path(folder, "content")
        content.mkdir()
        yield content


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


def try_lock(descriptor: int, *, shared: bool = False) -> bool | None:
    """Lock an open file or folder until it is closed; False if another holds it, None without locks here."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which appears there only when it is held."""
    unlocked = folder / f"{_LOCK}.new"
    descriptor = os.open(unlocked, os.O_RDWR | os.O_CREAT)
    try:
        if try_lock(descriptor):
            unlocked.rename(folder / _LOCK)
        yield
    finally:
        os.close(descriptor)


def _remove_abandoned(parent: Path) -> None:
    """Remove the temporary folders of dead processes of this user; leave all where that is not certain."""
    try:
        with os.scandir(parent) as entries:
            found = [Path(entry.path) for entry in entries if _OURS.fullmatch(entry.name)]
    except OSError:
        return  # writing will say what is wrong
    for folder in found:
        with contextlib.suppress(OSError):
            if folder.is_dir() and not folder.is_symlink() and _is_ours(folder) and _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    return sys.platform == "win32" or folder.stat().st_uid == os.getuid()


def _is_abandoned(folder: Path) -> bool:
    """Return whether a temporary folder's process has died.

    Where the lock is this host's, it says so. Otherwise a folder counts as abandoned if nothing in it has
    changed for a day: locks do not always reach from one host to another.
    """
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(folder / _LOCK, os.O_RDWR)
        try:
            is_free = try_lock(descriptor)
        finally:
            os.close(descriptor)
        if is_free is False:
            return False
        if is_free and folder.name.startswith(f"{_PREFIX}{_host()}-"):
            return True
    newest = max(part.lstat().st_mtime for part in (folder, *folder.rglob("*")))
    return time.time() - newest > _MAX_AGE_S


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
