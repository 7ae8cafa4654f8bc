"""Products of bfloat16 matrices in the processor's tile registers (Intel AMX).

A tile register holds 16 rows of 64 bytes. One instruction multiplies 16 rows of inputs with 16 rows of
weights over 32 numbers of the width, and adds the products to 16 x 16 float32 sums:

    inputs, in place          weights, packed (`panels.py`)     sums
    16 rows x 32 numbers      16 pairs x 16 rows of pairs       16 inputs x 16 outputs
    i0: n0 n1 | n2 n3 | ...   w0: n0 n1 | w1: n0 n1 | ...       o0 o1 ... o15
    i1: n0 n1 | n2 n3 | ...   w0: n2 n3 | w1: n2 n3 | ...       o0 o1 ... o15

A sum is taken in the order of the width, 32 numbers at a time, and depends on nothing else: neither on the
place of its row and output in the tile nor on which of the two matrices was packed. So a row has the same
bits in every product.

The registers are numbered by hand: 0 to 3 hold sums, 4 and 5 inputs, 6 and 7 weights.
"""

import ctypes
import platform
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types

from lookahead.backends.cpu.kernels import vectors
from lookahead.backends.cpu.kernels.vectors import INT64, loop
from lookahead.jit import compiled, intrinsic_call

ROWS = 16
"""Rows of a tile register."""
STEP = 32
"""Numbers of the width that one instruction multiplies."""
_ROW_BYTES = 64
_REGISTERS = 8
_INPUTS, _WEIGHTS = 4, 6
"""The first registers of inputs and of weights."""
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18
"""Linux's system call, with which a process asks for the registers once (arch_prctl(2))."""


def has_tile_instructions() -> bool:
    """Return whether numba compiles for a processor that multiplies tiles of bfloat16."""
    return vectors.has_feature("amx-tile") and vectors.has_feature("amx-bf16")


HAS_TILES = has_tile_instructions()
"""A constant for kernels: code for tiles, half of all, is not compiled where there are none."""


@cache
def may_use_tiles() -> bool:
    """Return whether the processor multiplies tiles and the operating system lets this process do it."""
    if not has_tile_instructions() or platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA)) == 0


def tile_configuration() -> np.ndarray:
    """Return the 64 bytes that `begin_tiles` reads: eight registers of 16 rows of 64 bytes."""
    configuration = np.zeros(_ROW_BYTES, np.uint8)
    configuration[0] = 1
    configuration[16 : 16 + 2 * _REGISTERS : 2] = _ROW_BYTES
    configuration[48 : 48 + _REGISTERS] = ROWS
    return configuration


def tile_call(builder: ir.IRBuilder, name: str, *arguments: Any) -> None:
    """Build an instruction on tile registers; nothing where the processor has none."""
    if has_tile_instructions():
        intrinsic_call(builder, f"llvm.x86.{name}", ir.VoidType(), list(arguments))


def tile_register(number: int) -> ir.Constant:
    """Return the operand that names a register."""
    return ir.Constant(ir.IntType(8), number)


@compiled
def begin_tiles(_typing: Any, address: types.Integer) -> Any:
    """Set up this thread's tile registers as `tile_configuration` at an address says."""

    def generated(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        tile_call(builder, "ldtilecfg", pointer)
        return context.get_dummy_value()

    return types.void(types.int64), generated


@compiled
def end_tiles(_typing: Any) -> Any:
    """Give this thread's tile registers back."""

    def generated(context: Any, builder: ir.IRBuilder, _signature: Any, _arguments: Any) -> Any:
        tile_call(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), generated


class TileMatrix(NamedTuple):
    """A matrix in memory: a pointer, the elements between two rows, and the bytes of an element."""

    pointer: Any
    stride: Any
    element_bytes: int

    def load(self, builder: ir.IRBuilder, register: int, index: Any) -> int:
        """Load a register from the rows that begin at an element; return the register."""
        tile_call(builder, "tileloadd64", *self._operands(builder, register, index))
        return register

    def store(self, builder: ir.IRBuilder, register: int, index: Any) -> None:
        """Store a register to the rows that begin at an element."""
        tile_call(builder, "tilestored64", *self._operands(builder, register, index))

    def _operands(self, builder: ir.IRBuilder, register: int, index: Any) -> tuple[Any, Any, Any]:
        place = builder.bitcast(builder.gep(self.pointer, [index]), ir.IntType(8).as_pointer())
        return tile_register(register), place, builder.mul(self.stride, INT64(self.element_bytes))


def _add_products(
    builder: ir.IRBuilder,
    index: Any,
    given: tuple[TileMatrix, int],
    panel: tuple[TileMatrix, Any, int],
) -> None:
    """Add the products of 32 numbers of the width to the sums.

    `given` are the inputs and how many times 16 rows of them; `panel` the packed weights, the words between
    two units, and how many units. What is needed once is loaded last, so that two registers are enough for
    the other.
    """
    (rows, tiles), (words, unit_stride, units) = given, panel

    def load_inputs(tile: int) -> int:
        first = builder.add(index, builder.mul(rows.stride, INT64(ROWS * tile)))
        return rows.load(builder, _INPUTS + tile % 2, first)

    def load_weights(unit: int) -> int:
        pair = builder.mul(builder.sdiv(index, INT64(2)), words.stride)
        first = builder.add(pair, builder.mul(unit_stride, INT64(unit)))
        return words.load(builder, _WEIGHTS + unit % 2, first)

    if units == 1:
        weights = load_weights(0)
        for tile in range(tiles):
            operands = (tile, load_inputs(tile), weights)
            tile_call(builder, "tdpbf16ps", *map(tile_register, operands))
        return
    inputs = [load_inputs(tile) for tile in range(tiles)]
    for unit in range(units):
        weights = load_weights(unit)
        for tile, register in enumerate(inputs):
            operands = (unit * tiles + tile, register, weights)
            tile_call(builder, "tdpbf16ps", *map(tile_register, operands))


def _begin_sums(builder: ir.IRBuilder, sums: TileMatrix, places: list[Any], is_added: Any) -> None:
    """Load the registers of the sums if these are added to, or else set them to 0."""
    with builder.if_else(is_added) as (then, otherwise):
        with then:
            for number, place in enumerate(places):
                sums.load(builder, number, place)
        with otherwise:
            for number in range(len(places)):
                tile_call(builder, "tilezero", tile_register(number))


def _multiplier_maker(tiles: int, units: int) -> Any:
    """Return a function that multiplies `tiles` times 16 rows of inputs with `units` times 16 of weights."""

    @compiled
    def multiply(
        _typing: Any,
        rows: types.CPointer,
        row_stride: types.Integer,
        packed: types.CPointer,
        pair_stride: types.Integer,
        unit_stride: types.Integer,
        width: types.Integer,
        out: types.CPointer,
        out_stride: types.Integer,
        adds: types.Boolean,
    ) -> Any:
        """Write float32 out[row · out_stride + output], or add to it if `adds`.

        `rows` are bfloat16 and `packed` are words. `pair_stride` is between two pairs of the width,
        `unit_stride` between units of 16; strides count elements.
        """

        def generated(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
            given, stride, words, of_pair, of_unit, size, target, of_out, is_added = arguments
            inputs, weights, sums = (
                TileMatrix(given, stride, 2),
                TileMatrix(words, of_pair, 4),
                TileMatrix(target, of_out, 4),
            )
            places = [
                builder.add(builder.mul(of_out, INT64(ROWS * tile)), INT64(ROWS * unit))
                for unit in range(units)
                for tile in range(tiles)
            ]
            _begin_sums(builder, sums, places, is_added)

            def body(index: Any, _: list[Any]) -> list[Any]:
                _add_products(builder, index, (inputs, tiles), (weights, of_unit, units))
                return []

            loop(builder, INT64(0), size, STEP, [], body)
            for number, place in enumerate(places):
                sums.store(builder, number, place)
            return context.get_dummy_value()

        whole = types.int64
        return (
            types.void(rows, whole, packed, whole, whole, whole, out, whole, types.boolean),
            generated,
        )

    return multiply


multiply_1_by_1 = _multiplier_maker(1, 1)
multiply_1_by_2 = _multiplier_maker(1, 2)
multiply_2_by_1 = _multiplier_maker(2, 1)
multiply_2_by_2 = _multiplier_maker(2, 2)
multiply_4_by_1 = _multiplier_maker(4, 1)
