"""Unpacking to bfloat16 by tables, for processors with AVX-512: fewer operations than number by number.

Numbers of four or five bits have 16 or 32 different weights in a piece of a row. These are computed and
rounded once, and one instruction looks up the piece's 32 weights by the low five bits of each place. With
four bits two rows share a table, the second row's weights begin at place 16:

    numbers of a piece, 4 bits each    3  0 15 ...      places of the first row     3  0 15 ...
                                                        places of the second row   19 16 31 ...
"""

from typing import Any

from llvmlite import ir

from lookahead.backends.cpu.kernels import vectors
from lookahead.backends.cpu.kernels.gguf.blocks import (
    CENTERS,
    PIECE,
    WITH_SHIFT,
    block_of_piece,
    scales_of_row,
)
from lookahead.backends.cpu.kernels.gguf.formats import Packing
from lookahead.backends.cpu.kernels.vectors import FLOAT, FLOATS, INT64, INTS, LANES, ints
from lookahead.jit import intrinsic_call

_BYTE, _SHORT = ir.IntType(8), ir.IntType(16)
_BYTES, _WORDS, _LONGS = ir.VectorType(_BYTE, 32), ir.VectorType(_SHORT, 32), ir.VectorType(INT64, 4)
_FIVE_BITS = (Packing.Q5_0, Packing.Q5_1, Packing.Q5_K)
_FOUR_BITS = (Packing.Q4_0, Packing.Q4_1, Packing.Q4_K)
_LOW, _HIGH = 0x0102040800000000, 0x1020408000000000
"""Bit matrices that take the low and the high half of a byte: the last byte makes the lowest bit."""
_TO_FIFTH_BIT = 0x01000000
"""The bit matrix that moves bit 0 to the fifth; shifted left by i, bit i."""


def has_tables(packing: Packing) -> bool:
    """Return whether a format is unpacked by tables on the processor that numba compiles for."""
    has_instructions = all(map(vectors.has_feature, ("avx512bw", "avx512vl", "gfni")))
    return has_instructions and vectors.multiplies_pairs() and packing in (*_FOUR_BITS, *_FIVE_BITS)


def words_by_tables(
    builder: ir.IRBuilder, packing: Packing, rows: list[Any], piece: Any, scales: Any
) -> list[Any]:
    """Return a piece of sixteen rows, each as sixteen words of two bfloat16 weights.

    Args:
        builder: Where to build.
        packing: A format that `has_tables` is true for.
        rows: Byte pointers to the rows' first blocks.
        piece: Index of the piece.
        scales: Float pointer to the piece's scales.
    """
    found = []
    for lane, row in enumerate(rows):
        is_second = packing in _FOUR_BITS and lane % 2 == 1
        if not is_second:
            table = _table(builder, packing, scales, lane)
        places = _places(builder, packing, row, piece, first=LANES * is_second)
        looked_up = intrinsic_call(builder, "llvm.x86.avx512.permvar.hi.512", _WORDS, [table, places])
        found.append(builder.bitcast(looked_up, INTS))
    return found


def _table(builder: ir.IRBuilder, packing: Packing, scales: Any, lane: int) -> Any:
    """Return the weights of the numbers 0 to 31 of a row, or of 0 to 15 of it and of the next one."""
    parts = []
    for part in range(2):
        row, first = (lane, LANES * part) if packing in _FIVE_BITS else (lane + part, 0)
        factor, shift = scales_of_row(builder, packing, scales, row)
        numbers = [first + place - CENTERS.get(packing, 0) for place in range(LANES)]
        vector = ir.Constant(FLOATS, [ir.Constant(FLOAT, float(number)) for number in numbers])
        if packing in WITH_SHIFT:
            parts.append(vectors.fused_multiply_add(builder, vector, factor, shift))
        else:
            parts.append(builder.fmul(vector, factor))
    return builder.bitcast(vectors.bfloat16_words(builder, *parts), _WORDS)


def _places(builder: ir.IRBuilder, packing: Packing, row: Any, piece: Any, first: int) -> Any:
    """Return the places of a piece's numbers in a table in which they begin at `first`."""
    start, inside = block_of_piece(builder, packing, row, piece)
    if packing in (Packing.Q4_K, Packing.Q5_K):
        return builder.zext(_numbers_of_k(builder, packing, start, inside, first), _WORDS)
    size = packing.block.size
    loaded = _load(builder, start, INT64(size - LANES), ir.VectorType(_BYTE, LANES))
    twice = builder.shuffle_vector(loaded, loaded, ints([*range(LANES), *range(LANES)]))
    matrices = ir.Constant(_LONGS, [INT64(matrix) for matrix in (_LOW, _LOW, _HIGH, _HIGH)])
    places = builder.zext(_each_byte(builder, twice, matrices, first), _WORDS)
    if packing in _FOUR_BITS:
        return places
    is_set = _load(builder, start, INT64(size - LANES - 4), vectors.INT32)
    is_set = builder.bitcast(is_set, ir.VectorType(ir.IntType(1), PIECE))
    above = builder.add(places, ir.Constant(_WORDS, [_SHORT(LANES)] * PIECE))
    return builder.select(is_set, above, places)


def _numbers_of_k(builder: ir.IRBuilder, packing: Packing, start: Any, inside: Any, first: int) -> Any:
    """Return the places of a piece of a block of 256, whose bytes hold two pieces."""
    has_fifth = packing is Packing.Q5_K
    at = builder.mul(builder.ashr(inside, INT64(1)), INT64(PIECE))
    low = _load(builder, start, builder.add(at, INT64(48 if has_fifth else 16)), _BYTES)
    is_high = builder.trunc(inside, ir.IntType(1))
    matrix = builder.select(is_high, INT64(_HIGH), INT64(_LOW))
    numbers = _each_byte(builder, low, _splat(builder, matrix), first)
    if not has_fifth:
        return numbers
    matrix = builder.shl(INT64(_TO_FIFTH_BIT), inside)
    high = _load(builder, start, INT64(16), _BYTES)
    return builder.or_(numbers, _each_byte(builder, high, _splat(builder, matrix), 0))


def _each_byte(builder: ir.IRBuilder, numbers: Any, matrices: Any, added: int) -> Any:
    """Return each byte multiplied by a bit matrix, with the bits of `added` inverted."""
    operands = [numbers, builder.bitcast(matrices, _BYTES), _BYTE(added)]
    return intrinsic_call(builder, "llvm.x86.vgf2p8affineqb.256", _BYTES, operands)


def _load(builder: ir.IRBuilder, start: Any, offset: Any, kind: ir.Type) -> Any:
    return builder.load(builder.bitcast(builder.gep(start, [offset]), kind.as_pointer()), align=1)


def _splat(builder: ir.IRBuilder, number: Any) -> Any:
    vector = builder.insert_element(ir.Constant(_LONGS, ir.Undefined), number, vectors.INT32(0))
    return builder.shuffle_vector(vector, vector, ints([0] * 4))
