"""Matrices of the CPU decoder that stay in the blocks of a GGUF file."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from lookahead.backends.cpu.kernels.amx import has_tile_instructions
from lookahead.backends.cpu.kernels.gguf.formats import Packing
from lookahead.backends.cpu.kernels.gguf.unpacking import (
    UNPACKING_FIELDS,
    UnpackingField,
    Use,
    unpacking_address,
)
from lookahead.backends.cpu.kernels.matrix import PACKING_FIELDS, UNIT, PackingField
from lookahead.backends.cpu.kernels.pointers import call_with, int_pointer
from lookahead.drafting.arrays import Int64Array
from lookahead.jit import kernel


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
            found = f"{self.blocks.dtype} {list(self.blocks.shape)}"
            return f"its blocks are {found}, not those of {self.packing.name}"
        if self.interleaved and (self.interleaved % (2 * UNIT) or self.shape[0] % self.interleaved):
            return f"its heads of {self.interleaved} rows are not whole units of {UNIT}"
        return ""

    def with_blocks(self, blocks: Tensor) -> "PackedMatrix":
        """Return a matrix of other blocks of the same kind."""
        return replace(self, blocks=blocks)

    def numbers(self) -> Tensor:
        """Return the matrix unpacked, [outputs, width] of its dtype."""
        outputs, width = self.shape
        units = -(-outputs // UNIT)
        blocks = self.blocks.contiguous()
        if outputs % UNIT:  # whole units are unpacked
            room = blocks.new_zeros(units * UNIT, blocks.shape[1])
            room[:outputs] = blocks
            blocks = room
        panels = torch.empty(units * UNIT * width, dtype=self.dtype, device="cpu")
        scales = torch.empty(width, dtype=torch.float32, device="cpu")
        arguments = np.zeros(UNPACKING_FIELDS, np.int64)
        arguments[UnpackingField.WEIGHTS_AT] = blocks.data_ptr()
        arguments[UnpackingField.STRIDE] = self.packing.row_size(width)
        arguments[UnpackingField.WIDTH] = width
        arguments[UnpackingField.TARGET_AT] = panels.data_ptr()
        arguments[UnpackingField.SCALES_AT] = scales.data_ptr()
        function, size = int(self.table()[PackingField.PANELS_AT]), UNIT * width * panels.element_size()
        _unpack_units(function, arguments, arguments.ctypes.data, units, size)
        words = panels.element_size() // 2  # of two bfloat16 or of one float32
        numbers = panels.view(units, width * words // 2, UNIT, 2 // words).transpose(1, 2)
        numbers = numbers.reshape(units * UNIT, width)[:outputs]
        head = self.interleaved
        if head:
            numbers = numbers.view(-1, head // 2, 2, width).transpose(1, 2).reshape(outputs, width)
        return numbers.contiguous()  # torch's sums depend on the order in memory

    def table(self) -> np.ndarray:
        """Return its table, see `PackingField`: one for all matrices of a kind, while the process lives."""
        return _table(self.packing, self.width, self.dtype, self.interleaved)


Weights = Tensor | PackedMatrix


@kernel
def _unpack_units(function: int, arguments: Int64Array, address: int, units: int, panel_size: int) -> None:
    """Unpack all units of a matrix, in the order of the file, to panels one after the other.

    Args:
        function: Address of the function that unpacks.
        arguments: Its arguments for the first unit.
        address: Of these arguments.
        units: How many times 16 rows there are.
        panel_size: Bytes of a panel.
    """
    for _ in range(units):
        call_with(function, int_pointer(address))
        arguments[UnpackingField.WEIGHTS_AT] += UNIT * arguments[UnpackingField.STRIDE]
        arguments[UnpackingField.TARGET_AT] += panel_size


@cache
def _table(packing: Packing, width: int, dtype: torch.dtype, interleaved: int) -> np.ndarray:
    is_bfloat16 = dtype == torch.bfloat16
    panels = Use.BFLOAT16_PANELS if is_bfloat16 else Use.FLOAT_PANELS
    has_tiles = is_bfloat16 and has_tile_instructions()
    fields = {
        PackingField.PANELS_AT: unpacking_address(packing, panels),
        PackingField.PRODUCTS_AT: unpacking_address(packing, Use.PRODUCTS) if has_tiles else 0,
        PackingField.ROW_SIZE: packing.row_size(width),
        PackingField.BLOCK: packing.block.numbers,
        PackingField.BLOCK_SIZE: packing.block.size,
        PackingField.INTERLEAVED: interleaved,
    }
    table = np.zeros(PACKING_FIELDS, np.int64)
    table[list(fields)] = list(fields.values())
    return table


def compile_unpacking() -> None:
    """Compile the functions that unpack all formats, for both dtypes."""
    uses = list(Use) if has_tile_instructions() else [Use.FLOAT_PANELS, Use.BFLOAT16_PANELS]
    for packing in Packing:
        for use in uses:
            unpacking_address(packing, use)


def table_address(weights: Weights) -> int:
    """Return the address of a matrix's table; 0 if it is not packed."""
    return weights.table().ctypes.data if isinstance(weights, PackedMatrix) else 0
