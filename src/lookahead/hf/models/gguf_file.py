"""Reading where the tensors of a GGUF file lie, without their data and without the vocabulary's texts.

The `gguf` package's reader makes an object of every token of the vocabulary, which takes seconds.
"""

import hashlib
import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lookahead.backends.cpu.kernels.gguf.formats import Packing
from lookahead.errors import UnsupportedModelError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = 32
"""Where the file names none."""
_UINT32, _STRING, _ARRAY = 4, 8, 9
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Types of metadata as `struct` knows them."""
_VOCABULARY, _TOKENS = "tokenizer.ggml.", "tokenizer.ggml.tokens"
_PLAIN = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}
"""Types of tensors whose numbers are not in blocks."""


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a GGUF file.

    Attributes:
        name: In the file.
        shape: As torch counts: [outputs, inputs] for a matrix.
        kind: Number of its type in the file.
        begin: First byte in the file.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    begin: int

    @property
    def packing(self) -> Packing | None:
        """The format of its blocks; None for numbers, or for a format that is not supported."""
        return Packing(self.kind) if self.kind in list(Packing) else None

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype of its numbers; None for blocks."""
        return _PLAIN.get(self.kind)


@dataclass(frozen=True)
class GgufFile:
    """What a GGUF file holds.

    Attributes:
        path: Of the file.
        metadata: Its values by key; of an array only its length.
        values: The same as they stand in the file, each with its key, but for the vocabulary's arrays.
        tensors: Its tensors by name.
        digest: Hexadecimal, of all before the tensors' data.
    """

    path: Path
    metadata: dict[str, Any]
    values: dict[str, bytes]
    tensors: dict[str, GgufTensor]
    digest: str

    @classmethod
    def read(cls, path: Path) -> "GgufFile":
        """Read a file.

        Raises:
            UnsupportedModelError: It is not a GGUF file of version 2 or 3, or it is cut off.
        """
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _read(path, content)
        except (struct.error, ValueError, KeyError, IndexError) as error:
            message = f"{path} cannot be read as a GGUF file: it is cut off or damaged ({error})"
            raise UnsupportedModelError(message) from error

    def without_vocabulary(self) -> bytes:
        """Return a small GGUF file: `values`, the size of the vocabulary, and tensors of one number."""
        kept = list(self.values.values())
        size_key = f"{self.metadata['general.architecture']}.vocab_size"
        if size_key not in self.values and _TOKENS in self.metadata:
            kept.append(_text(size_key) + struct.pack("<II", _UINT32, self.metadata[_TOKENS]))
        tensors = [_text(name) + struct.pack("<IQIQ", 1, 1, 0, 0) for name in self.tensors]
        counts = struct.pack("<IQQ", _VERSIONS[-1], len(tensors), len(kept))
        header = _MAGIC + counts + b"".join(kept + tensors)
        alignment = int(self.metadata.get("general.alignment", _ALIGNMENT))
        return header + bytes(-len(header) % alignment + alignment)

    def map(self) -> Tensor:
        """Return the file's bytes, uint8, mapped: pages are read when they are used, and shared by processes.

        Who writes to them gets a page of its own; the file is never changed.
        """
        return torch.from_file(str(self.path), shared=False, size=self.path.stat().st_size, dtype=torch.uint8)

    def data(self, mapped: Tensor, tensor: GgufTensor) -> Tensor:
        """Return a tensor of numbers, or of a matrix's blocks, uint8 [outputs, bytes of a row]."""
        packing, dtype = tensor.packing, tensor.dtype
        if dtype is not None:
            size = prod(tensor.shape) * dtype.itemsize
            return mapped[tensor.begin : tensor.begin + size].view(dtype).view(tensor.shape)
        if packing is None:
            message = f"tensor {tensor.name} is of type {tensor.kind}, which has no size here"
            raise UnsupportedModelError(message)
        rows, row_size = prod(tensor.shape[:-1]), packing.row_size(tensor.shape[-1])
        return mapped[tensor.begin : tensor.begin + rows * row_size].view(rows, row_size)


def _text(text: str) -> bytes:
    """Return a text as it stands in a file."""
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


class _Cursor:
    """A place in a file's header."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content = content
        self.at = 0

    def numbers(self, kinds: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{kinds}", self.content, self.at)
        self.at += struct.calcsize(f"<{kinds}")
        return found

    def text(self) -> str:
        (size,) = self.numbers("Q")
        begin, self.at = self.at, self.at + size
        return self.content[begin : self.at].decode("utf-8")

    def value(self, kind: int) -> Any:
        """Return a value; of an array its length."""
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.numbers(_SCALARS[kind])[0]
        element, count = self.numbers("IQ")
        if element in _SCALARS:
            self.at += count * struct.calcsize(f"<{_SCALARS[element]}")
            return count
        if element != _STRING:
            message = f"an array of type {element}"
            raise ValueError(message)
        read, content, at = struct.Struct("<Q").unpack_from, self.content, self.at
        for _ in range(count):
            at += 8 + read(content, at)[0]
        self.at = at
        return count


def _read(path: Path, content: mmap.mmap) -> GgufFile:
    cursor = _Cursor(content)
    cursor.at = len(_MAGIC)
    (version, tensors, values) = cursor.numbers("IQQ")
    if content[: len(_MAGIC)] != _MAGIC or version not in _VERSIONS:
        message = f"{path} is not a GGUF file of version 2 or 3; give one that llama.cpp reads today"
        raise UnsupportedModelError(message)
    metadata, raw = {}, {}
    for _ in range(values):
        at = cursor.at
        key, (kind,) = cursor.text(), cursor.numbers("I")
        metadata[key] = cursor.value(kind)
        if kind != _ARRAY or not key.startswith(_VOCABULARY):
            raw[key] = content[at : cursor.at]
    found = []
    for _ in range(tensors):
        name = cursor.text()
        (dimensions,) = cursor.numbers("I")
        shape = tuple(reversed(cursor.numbers(f"{dimensions}Q")))
        found.append((name, shape, *cursor.numbers("IQ")))
    alignment = int(metadata.get("general.alignment", _ALIGNMENT))
    begin = -(-cursor.at // alignment) * alignment
    digest = hashlib.sha256(content[: cursor.at]).hexdigest()
    infos = {name: GgufTensor(name, shape, kind, begin + at) for name, shape, kind, at in found}
    _check_size(infos, len(content))
    return GgufFile(path, metadata, raw, infos, digest)


def _check_size(tensors: dict[str, GgufTensor], size: int) -> None:
    """Raise ValueError if the file ends before a tensor does: reading beyond it would end the process."""
    for tensor in tensors.values():
        packing, dtype = tensor.packing, tensor.dtype
        count = prod(tensor.shape)
        bytes_of = 0
        if packing is not None:
            bytes_of = count // packing.block.numbers * packing.block.size
        elif dtype is not None:
            bytes_of = count * dtype.itemsize
        if tensor.begin + bytes_of > size:
            message = f"{tensor.name} ends at {tensor.begin + bytes_of} of {size} bytes"
            raise ValueError(message)
