"""Unpacking sixteen rows of weights from a GGUF file: one compiled function per format, dtype and layout.

A product calls such a function by its address, where it would otherwise pack weights that lie in memory as
numbers. So a model compiles the code of its own formats only, and the step's code does not grow.

    panels    words [words, 16 rows], as `panels.pack_weights` writes them, for products in vectors and tiles
    tiles     bfloat16 [pieces, 16 rows, 32], one tile register after the other, for few rows of inputs
"""

from enum import IntEnum
from functools import cache
from typing import Any

from llvmlite import ir
from numba import types

from lookahead.backends.cpu.kernels import vectors
from lookahead.backends.cpu.kernels.gguf.blocks import PIECE, SCALES_OF_PIECE, weights_of, write_scales
from lookahead.backends.cpu.kernels.gguf.formats import Packing
from lookahead.backends.cpu.kernels.gguf.tables import has_tables, words_by_table
from lookahead.backends.cpu.kernels.vectors import INT64, INTS, LANES, loop
from lookahead.jit import compiled, log_if_slow, shared_kernel

_LINE = 64
"""Bytes of a cache line."""
_SIGNATURE = "void(int64, int64, int64, int64, int64, int64)"


class Layout(IntEnum):
    """What unpacked weights look like; see above."""

    FLOAT_PANELS = 0
    BFLOAT16_PANELS = 1
    BFLOAT16_TILES = 2


@compiled
def _unpack(
    _typing: Any,
    packing: types.Integer,
    layout: types.Integer,
    address: types.Integer,
    stride: types.Integer,
    width: types.Integer,
    target: types.Integer,
    scales: types.Integer,
    ahead: types.Integer,
) -> Any:
    """Unpack `width` numbers, whole blocks, of 16 rows that are `stride` bytes apart.

    Args:
        packing: The `Packing`, a constant.
        layout: The `Layout`, a constant.
        address: Of the first row's first block.
        stride: Bytes between two rows.
        width: Of the part of the rows that is unpacked.
        target: Address of 16 · width numbers.
        scales: Address of float32 [width], for the scales.
        ahead: Bytes from here to what is needed next, which is prefetched meanwhile.
    """
    if not isinstance(packing, types.IntegerLiteral) or not isinstance(layout, types.IntegerLiteral):
        return None  # numba asks again, with constants
    chosen, written = Packing(packing.literal_value), Layout(layout.literal_value)

    def generated(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        first, row_stride, size, out, scale, later = arguments[2:]
        base = builder.inttoptr(first, ir.IntType(8).as_pointer())
        rows = [builder.gep(base, [builder.mul(row_stride, INT64(lane))]) for lane in range(LANES)]
        factors = builder.inttoptr(scale, vectors.FLOAT.as_pointer())
        words = builder.inttoptr(out, vectors.INT32.as_pointer())
        _write_all_scales(builder, chosen, rows, size, factors)

        def body(piece: Any, _: list[Any]) -> list[Any]:
            place = builder.gep(factors, [builder.mul(piece, INT64(SCALES_OF_PIECE))])
            _prefetch(builder, chosen, base, later, piece)
            columns = _columns(builder, chosen, written, rows, piece, place)
            start = builder.mul(piece, INT64(LANES * len(columns)))
            for index, column in enumerate(columns):
                vectors.store(builder, column, words, builder.add(start, INT64(LANES * index)))
            return []

        loop(builder, INT64(0), builder.sdiv(size, INT64(PIECE)), 1, [], body)
        return context.get_dummy_value()

    return types.void(packing, layout, *[types.int64] * 6), generated


def _write_all_scales(builder: ir.IRBuilder, packing: Packing, rows: list[Any], size: Any, out: Any) -> None:
    numbers = packing.block.numbers

    def body(block: Any, _: list[Any]) -> list[Any]:
        at = builder.mul(block, INT64(numbers // PIECE * SCALES_OF_PIECE))
        write_scales(builder, packing, rows, block, builder.gep(out, [at]))
        return []

    loop(builder, INT64(0), builder.sdiv(size, INT64(numbers)), 1, [], body)


def _prefetch(builder: ir.IRBuilder, packing: Packing, base: Any, ahead: Any, piece: Any) -> None:
    """Prefetch a piece's share of what is needed next: a processor's own prefetching ends at each page."""
    size = LANES * packing.row_size(packing.block.numbers) * PIECE // packing.block.numbers
    start = builder.add(ahead, builder.mul(piece, INT64(size)))
    for line in range(-(-size // _LINE)):
        vectors.prefetch(builder, base, builder.add(start, INT64(_LINE * line)))


def _columns(
    builder: ir.IRBuilder, packing: Packing, layout: Layout, rows: list[Any], piece: Any, scales: Any
) -> list[Any]:
    """Return a piece of sixteen rows as vectors of words, in the order of the layout."""
    places = [builder.gep(scales, [INT64(lane)]) for lane in range(LANES)]
    if layout is Layout.FLOAT_PANELS:
        pairs = [weights_of(builder, packing, *found) for found in _of_rows(rows, piece, places)]
        return [
            column
            for half in zip(*pairs, strict=True)
            for column in vectors.transposed(builder, [builder.bitcast(row, INTS) for row in half])
        ]
    words = [_bfloat16_words(builder, packing, *found) for found in _of_rows(rows, piece, places)]
    return vectors.transposed(builder, words) if layout is Layout.BFLOAT16_PANELS else words


def _of_rows(rows: list[Any], piece: Any, places: list[Any]) -> list[tuple[Any, Any, Any]]:
    return [(row, piece, place) for row, place in zip(rows, places, strict=True)]


def _bfloat16_words(builder: ir.IRBuilder, packing: Packing, row: Any, piece: Any, scales: Any) -> Any:
    if has_tables(packing):
        return words_by_table(builder, packing, row, piece, scales)
    return vectors.bfloat16_words(builder, *weights_of(builder, packing, row, piece, scales))


@cache
def unpacking_address(packing: Packing, layout: Layout) -> int:
    """Return the address of a C function that unpacks weights; its arguments are those of `_unpack`.

    The first call compiles it, in about a second, once per installation.
    """
    with log_if_slow():
        return int(_unpacker(int(packing), int(layout)).address)


def _unpacker(packing: int, layout: int) -> Any:
    def unpack(address: int, stride: int, width: int, target: int, scales: int, ahead: int) -> None:
        _unpack(packing, layout, address, stride, width, target, scales, ahead)

    unpack.__qualname__ = f"unpack_{Packing(packing).name}_to_{Layout(layout).name}".lower()
    return shared_kernel(unpack, _SIGNATURE)
