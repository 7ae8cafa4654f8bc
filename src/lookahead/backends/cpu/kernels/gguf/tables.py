"""Unpacking to bfloat16 by tables, for processors with AVX-512: fewer operations than number by number.

Numbers of four or five bits have 16 or 32 different weights in a piece. These are computed and rounded once,
and one instruction looks up the piece's 32 weights in them. It takes the low five bits of each place: where
the table has 16 entries twice, the fifth bit may be anything.
"""

from typing import Any

from llvmlite import ir

from lookahead.backends.cpu.kernels import vectors
from lookahead.backends.cpu.kernels.gguf.blocks import CENTERS, PIECE, WITH_SHIFT, block_of_piece
from lookahead.backends.cpu.kernels.gguf.formats import Packing
from lookahead.backends.cpu.kernels.vectors import FLOAT, FLOATS, INT64, INTS, LANES, ints
from lookahead.jit import intrinsic_call

_BYTE, _SHORT = ir.IntType(8), ir.IntType(16)
_WORDS = ir.VectorType(_SHORT, PIECE)
_FIVE_BITS = (Packing.Q5_0, Packing.Q5_1, Packing.Q5_K)
_FOUR_BITS = (Packing.Q4_0, Packing.Q4_1, Packing.Q4_K)


def has_tables(packing: Packing) -> bool:
    """Return whether a format is unpacked by tables on the processor that numba compiles for."""
    has_instructions = vectors.has_feature("avx512bw") and vectors.multiplies_pairs()
    return has_instructions and packing in (*_FOUR_BITS, *_FIVE_BITS)


def words_by_table(builder: ir.IRBuilder, packing: Packing, row: Any, piece: Any, scales: Any) -> Any:
    """Return a piece of a row as sixteen words of two bfloat16 weights; arguments as in `weights_of`."""
    start, inside = block_of_piece(builder, packing, row, piece)
    table = _table(builder, packing, scales)
    if packing in (Packing.Q4_K, Packing.Q5_K):
        places = _places_of_k(builder, packing, start, inside)
    else:
        places = _places(builder, packing, start)
    found = intrinsic_call(builder, "llvm.x86.avx512.permvar.hi.512", _WORDS, [table, places])
    return builder.bitcast(found, INTS)


def _table(builder: ir.IRBuilder, packing: Packing, scales: Any) -> Any:
    """Return the weights of the numbers 0 to 31, or of 0 to 15 twice."""
    factor, shift = (
        vectors.splat_of(builder, builder.load(builder.gep(scales, [INT64(at)]), align=4)) for at in (0, LANES)
    )
    parts = []
    for first in (0, LANES) if packing in _FIVE_BITS else (0,):
        numbers = [first + lane - CENTERS.get(packing, 0) for lane in range(LANES)]
        vector = ir.Constant(FLOATS, [ir.Constant(FLOAT, float(number)) for number in numbers])
        if packing in WITH_SHIFT:
            parts.append(vectors.fused_multiply_add(builder, vector, factor, shift))
        else:
            parts.append(builder.fmul(vector, factor))
    return builder.bitcast(vectors.bfloat16_words(builder, parts[0], parts[-1]), _WORDS)


def _places(builder: ir.IRBuilder, packing: Packing, start: Any) -> Any:
    """Return the numbers of a block of 32: low halves of sixteen bytes, then high halves."""
    size = packing.block.size
    kind = ir.VectorType(_BYTE, LANES)
    pointer = builder.bitcast(builder.gep(start, [INT64(size - LANES)]), kind.as_pointer())
    loaded = builder.load(pointer, align=1)
    twice = builder.shuffle_vector(loaded, loaded, ints([*range(LANES), *range(LANES)]))
    places = builder.lshr(builder.zext(twice, _WORDS), _shorts([0] * LANES + [4] * LANES))
    if packing not in _FIVE_BITS:
        return places
    at = builder.gep(start, [INT64(size - LANES - 4)])
    bits = builder.load(builder.bitcast(at, vectors.INT32.as_pointer()), align=2)
    is_set = builder.bitcast(bits, ir.VectorType(ir.IntType(1), PIECE))
    return _with_fifth_bit(builder, places, builder.sext(is_set, _WORDS))


def _places_of_k(builder: ir.IRBuilder, packing: Packing, start: Any, inside: Any) -> Any:
    """Return the numbers of a piece of a block of 256, whose bytes hold two pieces."""
    first = builder.mul(builder.ashr(inside, INT64(1)), INT64(PIECE))
    low = _bytes_at(builder, start, builder.add(first, INT64(16 + 32 * (packing is Packing.Q5_K))))
    shift = builder.mul(builder.and_(inside, INT64(1)), INT64(4))
    places = builder.lshr(low, _splat(builder, shift))
    if packing is not Packing.Q5_K:
        return places
    high = builder.shl(_bytes_at(builder, start, INT64(16)), _shorts([4] * PIECE))
    return _with_fifth_bit(builder, places, builder.lshr(high, _splat(builder, inside)))


def _with_fifth_bit(builder: ir.IRBuilder, places: Any, bits: Any) -> Any:
    """Return the low four bits of places, and above them those of `bits`, of which only the fifth counts."""
    four = builder.and_(places, _shorts([15] * PIECE))
    return builder.or_(four, builder.and_(bits, _shorts([-16] * PIECE)))


def _bytes_at(builder: ir.IRBuilder, start: Any, offset: Any) -> Any:
    kind = ir.VectorType(_BYTE, PIECE)
    pointer = builder.bitcast(builder.gep(start, [offset]), kind.as_pointer())
    return builder.zext(builder.load(pointer, align=1), _WORDS)


def _shorts(values: list[int]) -> ir.Constant:
    return ir.Constant(_WORDS, [ir.Constant(_SHORT, value) for value in values])


def _splat(builder: ir.IRBuilder, number: Any) -> Any:
    short = builder.trunc(number, _SHORT)
    vector = builder.insert_element(ir.Constant(_WORDS, ir.Undefined), short, vectors.INT32(0))
    return builder.shuffle_vector(vector, vector, ints([0] * PIECE))
