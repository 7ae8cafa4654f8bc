"""The formats of GGUF files that the CPU decoder reads in place, by their numbers in the file."""

from enum import IntEnum
from typing import NamedTuple


class BlockFormat(NamedTuple):
    """How a row of weights is divided into blocks.

    Attributes:
        numbers: Numbers in a block.
        size: Bytes of a block.
    """

    numbers: int
    size: int


class Packing(IntEnum):
    """Formats of blocks; the values are those that a GGUF file has."""

    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14

    @property
    def block(self) -> BlockFormat:
        """The size of the format's blocks."""
        return _BLOCKS[self]

    def row_size(self, width: int) -> int:
        """Return the bytes of a row of `width` numbers, a multiple of the block's."""
        return width // self.block.numbers * self.block.size


_BLOCKS = {
    Packing.Q4_0: BlockFormat(32, 18),
    Packing.Q4_1: BlockFormat(32, 20),
    Packing.Q5_0: BlockFormat(32, 22),
    Packing.Q5_1: BlockFormat(32, 24),
    Packing.Q8_0: BlockFormat(32, 34),
    Packing.Q4_K: BlockFormat(256, 144),
    Packing.Q5_K: BlockFormat(256, 176),
    Packing.Q6_K: BlockFormat(256, 210),
}
