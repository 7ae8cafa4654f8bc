"""Matrices of the CPU decoder that stay in the blocks of a GGUF file."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from lookahead.backends.cpu.kernels.amx import has_tile_instructions
from lookahead.backends.cpu.kernels.gguf.formats import Packing
from lookahead.backends.cpu.kernels.gguf.unpacking import Layout, unpacking_address
from lookahead.backends.cpu.kernels.matrix import PACKING_FIELDS, UNIT, PackingField


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """A matrix [outputs, width] in blocks; a step unpacks it to the numbers of `dtype`.

    It has of a tensor what `DecoderWeights` asks of its weights.

    Attributes:
        blocks: uint8 [outputs, bytes of a row], as in the file.
        packing: The format of the blocks.
        width: Numbers in a row.
        dtype: bfloat16 or float32.
        interleaved: Width of a head whose halves take turns, row by row, as in files of Llama models: row i
            of half j is row 2i + j of the head in the file. 0 for rows in order.
    """

    blocks: Tensor
    packing: Packing
    width: int
    dtype: torch.dtype
    interleaved: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and width."""
        return self.blocks.shape[0], self.width

    @property
    def device(self) -> torch.device:
        """Where the blocks are."""
        return self.blocks.device

    def is_contiguous(self) -> bool:
        """Return whether the blocks lie one after the other."""
        return self.blocks.is_contiguous()

    def data_ptr(self) -> int:
        """Return the address of the blocks."""
        return self.blocks.data_ptr()

    def unsupported_reason(self) -> str:
        """Return, in words, why the CPU decoder cannot unpack this matrix; empty if it can."""
        if self.blocks.dtype != torch.uint8 or self.blocks.shape[1] != self.packing.row_size(self.width):
            return f"its blocks are {self.blocks.dtype} {list(self.blocks.shape)}, not those of {self.packing.name}"
        if self.interleaved and (self.interleaved % (2 * UNIT) or self.shape[0] % self.interleaved):
            return f"its heads of {self.interleaved} rows are not whole units of {UNIT}"
        return ""

    def table(self) -> np.ndarray:
        """Return its table, see `PackingField`; equal matrices share one, which lives as long as the process."""
        return _table(self.packing, self.width, self.dtype, self.interleaved)


Weights = Tensor | PackedMatrix


@lru_cache(maxsize=None)
def _table(packing: Packing, width: int, dtype: torch.dtype, interleaved: int) -> np.ndarray:
    is_bfloat16 = dtype == torch.bfloat16
    panels = Layout.BFLOAT16_PANELS if is_bfloat16 else Layout.FLOAT_PANELS
    has_tiles = is_bfloat16 and has_tile_instructions()
    fields = {
        PackingField.PANELS_AT: unpacking_address(packing, panels),
        PackingField.TILES_AT: unpacking_address(packing, Layout.BFLOAT16_TILES) if has_tiles else 0,
        PackingField.ROW_SIZE: packing.row_size(width),
        PackingField.BLOCK: packing.block.numbers,
        PackingField.BLOCK_SIZE: packing.block.size,
        PackingField.INTERLEAVED: interleaved,
    }
    table = np.zeros(PACKING_FIELDS, np.int64)
    table[list(fields)] = list(fields.values())
    return table


def table_address(weights: Weights) -> int:
    """Return the address of a matrix's table; 0 if it is not packed."""
    return weights.table().ctypes.data if isinstance(weights, PackedMatrix) else 0
