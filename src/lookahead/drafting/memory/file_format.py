"""A draft memory's file: safetensors (no pickle), versioned, with a checksum, written atomically.

The arrays are a TokenLog's snapshot; everything else is in the metadata. See docs/concepts/memory.md.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lookahead.config import MAX_MEMORY_BYTES
from lookahead.drafting.memory.snapshots import ARRAYS, Snapshot, fault_in
from lookahead.drafting.store import VOCABULARY_NAMESPACE, fault_in_name
from lookahead.errors import MemoryFileError
from lookahead.files import atomic_write
from lookahead.version import __version__

FORMAT = "lookahead draft memory"
FORMAT_VERSION = 1

_STORE = "TokenLog"
_CHECKSUM = "sha256"
_DTYPES = {"I32": np.dtype(np.int32), "I64": np.dtype(np.int64), "F64": np.dtype(np.float64)}
_MODE = 0o600  # answers may be private
_LARGEST_VOCABULARY = 2**31


@dataclass(frozen=True, eq=False, kw_only=True)
class SavedMemory:
    """The content of a memory file.

    Attributes:
        snapshot: Of a TokenLog, compacted.
        vocabulary_size: Of the model that the memory has served; None if it has served none.
        tokenizer: Fingerprint of its tokenizer; None if it was never given one.
        max_bytes: The cap it had.
        taken: By memory, the number after the last text of its journal that is in the file.
        lookahead_version: The release that wrote it.
    """

    snapshot: Snapshot
    vocabulary_size: int | None
    tokenizer: str | None
    max_bytes: int
    taken: Mapping[str, int] = field(default_factory=dict)
    lookahead_version: str = __version__


def write_memory(path: Path, saved: SavedMemory) -> None:
    """Write a memory file, whole or not at all.

    Raises:
        MemoryFileError: It cannot be written.
    """
    arrays = {name: np.ascontiguousarray(saved.snapshot[name]) for name in ARRAYS}
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "lookahead_version": saved.lookahead_version,
        "store": _STORE,
        "vocabulary_size": json.dumps(saved.vocabulary_size),
        "tokenizer": json.dumps(saved.tokenizer),
        "max_bytes": json.dumps(saved.max_bytes),
        "taken": json.dumps(dict(saved.taken)),
        "namespaces": json.dumps(saved.snapshot["names"].tolist()),
    }
    metadata[_CHECKSUM] = _checksum(arrays, metadata)
    try:
        with atomic_write(path) as partial:
            save_file(arrays, partial, metadata)
            partial.chmod(_MODE)
    except (OSError, SafetensorError) as error:
        reason = f"the memory file {path} cannot be written ({_reason(error)})"
        message = f"{reason}; give a file in a folder that exists and may be written to"
        raise MemoryFileError(message) from error


def read_memory(path: Path) -> SavedMemory:
    """Return the content of a memory file, every array checked.

    Raises:
        MemoryFileError: The file is missing, not a memory file, newer than this release, or damaged.
    """
    if not path.is_file():
        message = (
            f"there is no memory file {path}; give one that DraftMemory.save or `lookahead memory` wrote"
        )
        raise MemoryFileError(message)
    try:
        metadata, arrays = _read(path)
    except (SafetensorError, OSError, ValueError) as error:
        message = f"{path} is not a memory file, or a damaged one ({_reason(error)}); create it again"
        raise MemoryFileError(message) from error
    _check_format(path, metadata)
    if metadata.get(_CHECKSUM) != _checksum(arrays, metadata):
        _refuse(path, "its checksum is wrong")
    return _checked(path, metadata, arrays)


def _read(path: Path) -> tuple[dict[str, str], dict[str, npt.NDArray[Any]]]:
    """Return the metadata and the arrays of a memory file, their shapes unchecked.

    Raises:
        SafetensorError: The file is not in the format, or cut off.
        ValueError: It has other arrays or dtypes.
    """
    with safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            return metadata, {}
        if metadata.get("format_version") != str(FORMAT_VERSION):
            return metadata, {}
        arrays = {}
        for name in file.keys():  # noqa: SIM118  it is not a mapping
            dtype = file.get_slice(name).get_dtype()
            if name not in ARRAYS or dtype not in _DTYPES:
                message = f"it has an array {name!r:.40} of {dtype}"
                raise ValueError(message)
            arrays[name] = file.get_tensor(name)
    return metadata, arrays


def _check_format(path: Path, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        message = (
            f"{path} is a safetensors file, but not a draft memory; give one that DraftMemory.save wrote"
        )
        raise MemoryFileError(message)
    version = metadata.get("format_version", "")
    if version != str(FORMAT_VERSION):
        if not version.isascii() or not version.isdecimal():
            _refuse(path, f"its format version is {version!r:.40}")
        message = (
            f"{path} has the format version {version}, written by lookahead "
            f"{metadata.get('lookahead_version', '?'):.20}; this is {__version__} and reads version "
            f"{FORMAT_VERSION}: use the release that wrote it, or create the file again"
        )
        raise MemoryFileError(message)


def _checked(path: Path, metadata: Mapping[str, str], arrays: dict[str, npt.NDArray[Any]]) -> SavedMemory:
    """Return the content of a file whose checksum is right; that alone proves nothing."""
    if metadata.get("store") != _STORE:
        _refuse(path, f"it is of a {metadata.get('store')!r:.40}, not of a {_STORE}")
    vocabulary_size = _parsed(path, metadata, "vocabulary_size")
    if vocabulary_size is not None and not _is_within(vocabulary_size, _LARGEST_VOCABULARY):
        _refuse(path, f"its vocabulary size is {vocabulary_size!r:.40}")
    tokenizer = _parsed(path, metadata, "tokenizer")
    if tokenizer is not None and not isinstance(tokenizer, str):
        _refuse(path, "its tokenizer has no fingerprint")
    max_bytes = _parsed(path, metadata, "max_bytes")
    if not _is_within(max_bytes, MAX_MEMORY_BYTES):
        _refuse(path, f"its cap is {max_bytes!r:.40}")
    taken = _parsed(path, metadata, "taken") if "taken" in metadata else {}  # earlier releases noted none
    if not isinstance(taken, dict) or not all(_is_within(number, 2**63) for number in taken.values()):
        _refuse(path, "what it took from other memories cannot be read")
    names = _parsed(path, metadata, "namespaces")
    if not _are_names(names):
        _refuse(path, "its namespaces are not a list of different names")
    _check_names(path, names)
    snapshot: Snapshot = {
        "names": np.array(names, np.object_),
        "owners_named": np.arange(1, len(names) + 1, dtype=np.int32),
        **arrays,
    }
    fault = fault_in(snapshot, vocabulary_size)
    if fault is not None:
        _refuse(path, fault)
    return SavedMemory(
        snapshot=snapshot,
        vocabulary_size=vocabulary_size,
        tokenizer=tokenizer,
        max_bytes=max_bytes,
        taken=taken,
        lookahead_version=metadata.get("lookahead_version", "?"),
    )


def _are_names(names: Any) -> bool:
    return (
        isinstance(names, list)
        and all(
            isinstance(name, str) and name and ("\0" not in name or name == VOCABULARY_NAMESPACE)
            for name in names
        )
        and len(set(names)) == len(names)
    )


def _check_names(path: Path, names: list[str]) -> None:
    """Refuse names that earlier releases allowed."""
    for name in names:
        fault = None if name == VOCABULARY_NAMESPACE else fault_in_name(name)
        if fault is not None:
            message = (
                f"the memory file {path} has the namespace {name!r:.80}, whose name is no longer allowed: "
                f"{fault}; forget the namespace with the release that wrote the file, or create it again"
            )
            raise MemoryFileError(message)


def _is_within(value: Any, largest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= largest


def _parsed(path: Path, metadata: Mapping[str, str], name: str) -> Any:
    try:
        return json.loads(metadata[name])
    except (KeyError, ValueError, RecursionError):
        _refuse(path, f"its {name} cannot be read")


def _checksum(arrays: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of the metadata and all arrays: names, dtypes, shapes and bytes."""
    described = {name: [array.dtype.name, list(array.shape)] for name, array in arrays.items()}
    checked = {name: value for name, value in metadata.items() if name != _CHECKSUM}
    digest = hashlib.sha256(json.dumps([checked, described], sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _refuse(path: Path, fault: str) -> NoReturn:
    message = f"the memory file {path} is damaged: {fault}; create it again"
    raise MemoryFileError(message)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).split("\n", 1)[0]
