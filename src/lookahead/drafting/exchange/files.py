"""`FileExchange`: replicas that share a folder, for where there is nothing else that they share.

Each update is one file, written whole or not at all and named by its time, so that the names' order is the
order of publication:

    0001764518400000000000-3f2a…-0000000000.update.safetensors
    nanoseconds            source first text

Whoever may write to the folder can put drafts into all memories, but no text into answers: drafts are
verified.
"""

import json
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.memory.journal import LearnedText, MemoryUpdate
from lookahead.errors import ConfigError, MemoryFileError
from lookahead.files import atomic_write

FORMAT = "lookahead memory update 1"
MAX_AGE_S = 24 * 3600
"""Files that are older are removed by whichever replica publishes next."""
_SUFFIX = ".update.safetensors"
_NAME = re.compile(r"(\d{22})-([0-9a-f]{32})-(\d{10,})\.update\.safetensors")
_MAX_FILE_BYTES = 64 * 2**20
_MODE = 0o600  # answers may be private


class FileExchange:
    """Publishes and receives updates through a folder.

    Args:
        folder: The folder; it exists, and the replicas may write to it.
        max_age_s: Seconds after which a file is removed.

    Raises:
        ConfigError: There is no such folder.
    """

    def __init__(self, folder: str | Path, *, max_age_s: float = MAX_AGE_S) -> None:
        self._folder = Path(folder)
        if not self._folder.is_dir():
            message = f"the exchange folder {folder} does not exist; create it, for all replicas to write to"
            raise ConfigError(message)
        self._max_age_s = max_age_s
        self._seen: set[str] = set()

    def publish(self, update: MemoryUpdate) -> None:
        """Write an update, and remove files that are too old.

        Raises:
            OSError: It cannot be written.
        """
        name = f"{time.time_ns():022d}-{update.source}-{update.begin:010d}{_SUFFIX}"
        with atomic_write(self._folder / name) as partial:
            write_update(partial, update)
        self._seen.add(name)
        self._remove_old()

    def receive(self) -> list[MemoryUpdate]:
        """Return what others wrote since the last call; files that are no updates are left out.

        Raises:
            OSError: The folder cannot be read.
        """
        present = {path.name for path in self._folder.iterdir() if _NAME.fullmatch(path.name)}
        new = sorted(present - self._seen)
        self._seen = present
        return list(self._read(new))

    def _read(self, names: list[str]) -> Iterator[MemoryUpdate]:
        for name in names:
            with suppress(FileNotFoundError, MemoryFileError):  # removed meanwhile, or no file of ours
                yield read_update(self._folder / name)

    def _remove_old(self) -> None:
        oldest = time.time_ns() - int(self._max_age_s * 1e9)
        for path in self._folder.iterdir():
            found = _NAME.fullmatch(path.name)
            if found is not None and int(found[1]) < oldest:
                path.unlink(missing_ok=True)


def write_update(path: Path, update: MemoryUpdate) -> None:
    """Write an update to a file."""
    tokens = [text.tokens for text in update.texts]
    arrays: dict[str, npt.NDArray[Any]] = {
        "tokens": np.concatenate([np.zeros(0, np.int32), *tokens]).astype(np.int32),
        "lengths": np.array([len(text) for text in tokens], np.int64),
        "is_forgotten": np.array([text.is_forgotten for text in update.texts], np.bool_),
    }
    metadata = {
        "format": FORMAT,
        "source": update.source,
        "begin": str(update.begin),
        "namespaces": json.dumps([text.namespace for text in update.texts]),
        "vocabulary_size": json.dumps(update.vocabulary_size),
        "tokenizer": json.dumps(update.tokenizer),
    }
    save_file(arrays, path, metadata)
    path.chmod(_MODE)


def read_update(path: Path) -> MemoryUpdate:
    """Return the update in a file; what it says of tokens and names is checked where it is applied.

    Raises:
        MemoryFileError: It is no update, or a damaged one.
        FileNotFoundError: There is no such file.
    """
    if path.stat().st_size > _MAX_FILE_BYTES:
        _refuse(path, f"it is longer than {_MAX_FILE_BYTES} bytes")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                _refuse(path, "it has another format")
            tokens, lengths, forgotten = (
                file.get_tensor(name) for name in ("tokens", "lengths", "is_forgotten")
            )
        return _update(metadata, tokens, lengths, forgotten)
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        _refuse(path, str(error).split("\n", 1)[0])


def _update(metadata: dict[str, str], tokens: Int32Array, lengths: Any, forgotten: Any) -> MemoryUpdate:
    """Return the update that a file's content says.

    Raises:
        ValueError: It says none.
        KeyError: Something is missing.
    """
    namespaces, begin = json.loads(metadata["namespaces"]), int(metadata["begin"])
    size, tokenizer = json.loads(metadata["vocabulary_size"]), json.loads(metadata["tokenizer"])
    is_sound = (
        tokens.dtype == np.int32
        and lengths.dtype == np.int64
        and forgotten.dtype == np.bool_
        and tokens.ndim == lengths.ndim == forgotten.ndim == 1
        and isinstance(namespaces, list)
        and len(namespaces) == len(lengths) == len(forgotten)
        and bool((lengths >= 0).all())
        and int(lengths.sum()) == len(tokens)
        and begin >= 0
        and (size is None or (type(size) is int and size > 0))
        and (tokenizer is None or isinstance(tokenizer, str))
    )
    if not is_sound:
        message = "its parts do not fit together"
        raise ValueError(message)
    parts = np.split(tokens, np.cumsum(lengths)[:-1]) if len(lengths) else []
    texts = [
        LearnedText(name, part, bool(is_forgotten))
        for name, part, is_forgotten in zip(namespaces, parts, forgotten, strict=True)
    ]
    return MemoryUpdate(
        source=metadata["source"],
        begin=begin,
        texts=tuple(texts),
        vocabulary_size=size,
        tokenizer=tokenizer,
    )


def _refuse(path: Path, reason: str) -> NoReturn:
    message = f"{path} is no update of a memory, or a damaged one ({reason:.200}); remove it"
    raise MemoryFileError(message)
