"""A layer's matrix as the products see it: numbers in memory, or blocks of a GGUF file."""

from enum import IntEnum
from typing import Any, NamedTuple

UNIT = 16
"""Outputs that are computed at once; every matrix has at least as many."""
CHUNK = 64
"""Outputs that a thread's scratch holds until they are rounded and written."""
STEP = 32
"""Divides the width of every matrix."""
MAX_PACKED_INPUTS = 64
"""So many rows of inputs are packed, and multiplied with weights as they are unpacked."""


class PackingField(IntEnum):
    """Fields of a table that says how a matrix is packed, int64."""

    PANELS_AT = 0  # address of the function that unpacks to panels, see `gguf/unpacking.py`
    PRODUCTS_AT = 1  # of that which multiplies with packed inputs; 0 where there are no tile registers
    ROW_SIZE = 2  # bytes of a row
    BLOCK = 3  # numbers in a block; divides the width
    BLOCK_SIZE = 4  # bytes of a block
    INTERLEAVED = 5  # width of a head whose two halves take turns in the file; 0 for rows in order


PACKING_FIELDS = len(PackingField)


class Matrix(NamedTuple):
    """A matrix [outputs, width].

    Attributes:
        at: Pointer to it, of the dtype that it is multiplied in.
        packing: Address of its table, see `PackingField`; 0 for a matrix of numbers.
        outputs: Number of rows.
        width: Numbers in a row.
    """

    at: Any
    packing: int
    outputs: int
    width: int


class Space(NamedTuple):
    """A worker's memory for products; pointers to float32, but for the last.

    Attributes:
        packed: Panels of two units [packed_size(...)], or some tiles.
        scales: Scales of sixteen packed rows, [width].
        inputs: Panels of inputs, [MAX_PACKED_INPUTS / 16, width / 2, 16].
        sums: Sums of one unit with these inputs, [16, MAX_PACKED_INPUTS].
        arguments: Pointer to int64 [UNPACKING_FIELDS].
    """

    packed: Any
    scales: Any
    inputs: Any
    sums: Any
    arguments: Any
