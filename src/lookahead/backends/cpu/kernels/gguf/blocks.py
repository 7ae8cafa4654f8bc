"""LLVM code that reads GGUF's blocks: the scales of sixteen rows at once, and the numbers of one row.

A weight is a small integer times a factor, plus a shift in some formats. Both are products of at most two
scales. Every product here is exact in float32, so that only the sum is rounded, and the result has the bits
that the `gguf` package's dequantizing computes. Numbers come in *pieces* of 32 of a row, in two vectors: the
first sixteen, and the last sixteen.

    Q4_0, Q4_1    d [m]    16 bytes: number i in the low half of byte i, number 16 + i in its high half
    Q5_0, Q5_1    d [m]    4 bytes with the fifth bit of each number; then as in Q4
    Q8_0          d        32 signed bytes
    Q4_K          d m      12 bytes with 6-bit scales of d and m for each of 8 pieces; 128 bytes: two pieces
                           share 32 bytes, the first in their low halves
    Q5_K          d m      scales as in Q4_K; 32 bytes with the fifth bit of each number, piece i in bit i;
                           then as in Q4_K
    Q6_K          128 bytes of low halves, 64 bytes with two more bits of each number, 16 signed bytes that
                  scale sixteen numbers each; then d

d and m are float16. Scales are stored as 32 float32 for each piece, a factor and a shift for each of sixteen
rows (`scales_of_row`). In Q6_K these are the factors of the first sixteen numbers and of the last sixteen; in
formats without a shift nothing reads it.
"""

from typing import Any, NamedTuple

from llvmlite import ir

from lookahead.backends.cpu.kernels import vectors
from lookahead.backends.cpu.kernels.gguf.formats import Packing
from lookahead.backends.cpu.kernels.vectors import FLOATS, INT32, INT64, INTS, LANES, ints
from lookahead.jit import intrinsic_call

PIECE = 32
"""Numbers of a row that are unpacked at once."""
SCALES_OF_PIECE = 2 * LANES
_BYTE, _SHORT = ir.IntType(8), ir.IntType(16)
_BYTES = ir.VectorType(_BYTE, LANES)
_HALVES = ir.VectorType(ir.HalfType(), LANES)
WITH_SHIFT = (Packing.Q4_1, Packing.Q5_1, Packing.Q4_K, Packing.Q5_K)
"""Formats whose weights are not multiples of their factor."""
CENTERS = {Packing.Q4_0: 8, Packing.Q5_0: 16, Packing.Q6_K: 32}
"""What is subtracted from the numbers of the formats without a shift."""
_LANES = list(range(LANES))
_PIECES_OF_K = 8
"""Pieces in a block of 256 numbers."""


class Rows(NamedTuple):
    """Sixteen rows of blocks.

    Attributes:
        base: Byte pointer to the first row.
        stride: Bytes between two rows.
    """

    base: Any
    stride: Any

    def pointers(self, builder: ir.IRBuilder) -> list[Any]:
        """Return a byte pointer to each row."""
        return [builder.gep(self.base, [builder.mul(self.stride, INT64(lane))]) for lane in range(LANES)]


def write_scales(builder: ir.IRBuilder, packing: Packing, rows: Rows, block: Any, place: Any) -> None:
    """Store the factors and shifts of one block of sixteen rows.

    Args:
        builder: Where to build.
        packing: The format.
        rows: The rows.
        block: Index of the block.
        place: Float pointer to the scales of the block's first piece.
    """
    start = builder.mul(block, INT64(packing.block.size))
    starts = Rows(builder.gep(rows.base, [start]), rows.stride)
    if packing is Packing.Q6_K:
        _write_scales_of_q6_k(builder, starts, place)
    elif packing in (Packing.Q4_K, Packing.Q5_K):
        _write_scales_of_k(builder, starts, place)
    else:  # d, and m or whatever follows it
        halves = builder.bitcast(_words_at(builder, starts, 0), ir.VectorType(ir.HalfType(), 2 * LANES))
        for first in (0, LANES):
            half = builder.shuffle_vector(halves, halves, ints(list(range(first, first + LANES))))
            vectors.store(builder, builder.fpext(half, FLOATS), place, INT64(first))


def scales_of_row(builder: ir.IRBuilder, packing: Packing, scales: Any, lane: int) -> tuple[Any, Any]:
    """Return splats of the factor and the shift of a row, from a float pointer to a piece's scales."""
    is_small = packing.block.numbers == PIECE
    places = (2 * lane, 2 * lane + 1) if is_small else (lane, LANES + lane)
    factor, shift = (
        vectors.splat_of(builder, builder.load(builder.gep(scales, [INT64(place)]), align=4))
        for place in places
    )
    return factor, shift


def _write_scales_of_k(builder: ir.IRBuilder, starts: Rows, place: Any) -> None:
    words = _words_at(builder, starts, 0)
    factor, shift = _halves_of(builder, words, 0), _halves_of(builder, words, 16)
    shift = builder.fsub(vectors.splat(-0.0), shift)
    first, second, third = (_words_at(builder, starts, 4 * (1 + index)) for index in range(3))
    for piece in range(_PIECES_OF_K):
        at = 8 * (piece % 4)
        if piece < 4:
            scales = _bits(builder, first, at, 6), _bits(builder, second, at, 6)
        else:
            scales = (
                _joined(builder, _bits(builder, third, at, 4), _bits(builder, first, at + 6, 2), 4),
                _joined(builder, _bits(builder, third, at + 4, 4), _bits(builder, second, at + 6, 2), 4),
            )
        for index, (whole, scale) in enumerate(zip(scales, (factor, shift), strict=True)):
            number = builder.fmul(scale, builder.sitofp(whole, FLOATS))
            vectors.store(builder, number, place, INT64(SCALES_OF_PIECE * piece + LANES * index))


def _write_scales_of_q6_k(builder: ir.IRBuilder, starts: Rows, place: Any) -> None:
    factor = _halves_of(builder, _words_at(builder, starts, 206), 16)  # the word ends with the block
    for index in range(2 * _PIECES_OF_K):
        if index % 4 == 0:
            words = _words_at(builder, starts, 192 + index)
        left = builder.shl(words, ints([24 - 8 * (index % 4)] * LANES))
        scale = builder.sitofp(builder.ashr(left, ints([24] * LANES)), FLOATS)
        vectors.store(builder, builder.fmul(factor, scale), place, INT64(LANES * index))


def numbers_of(builder: ir.IRBuilder, packing: Packing, row: Any, piece: Any) -> tuple[Any, Any]:
    """Return a piece of a row as two vectors of sixteen whole numbers, without factors and shifts.

    Args:
        builder: Where to build.
        packing: The format.
        row: Byte pointer to the row's first block.
        piece: Index of the piece.
    """
    start, inside = block_of_piece(builder, packing, row, piece)
    if packing is Packing.Q8_0:
        found = tuple(builder.sext(_bytes_at(builder, start, 2 + LANES * half), INTS) for half in range(2))
    elif packing is Packing.Q6_K:
        found = _numbers_of_q6_k(builder, start, inside)
    elif packing in (Packing.Q4_K, Packing.Q5_K):
        found = _numbers_of_k(builder, packing, start, inside)
    else:
        found = _numbers_of_small(builder, packing, start)
    center = CENTERS.get(packing)
    if center is not None and packing is not Packing.Q6_K:
        found = tuple(builder.sub(half, ints([center] * LANES)) for half in found)
    return found[0], found[1]


def block_of_piece(builder: ir.IRBuilder, packing: Packing, row: Any, piece: Any) -> tuple[Any, Any]:
    """Return a byte pointer to the block that a piece is in, and the piece's index in it."""
    pieces = packing.block.numbers // PIECE
    block = builder.sdiv(piece, INT64(pieces)) if pieces > 1 else piece
    start = builder.gep(row, [builder.mul(block, INT64(packing.block.size))])
    return start, builder.srem(piece, INT64(pieces))


def _numbers_of_small(builder: ir.IRBuilder, packing: Packing, start: Any) -> tuple[Any, ...]:
    size = packing.block.size
    loaded = builder.zext(_bytes_at(builder, start, size - LANES), INTS)
    halves = _bits(builder, loaded, 0, 4), builder.lshr(loaded, ints([4] * LANES))
    if packing not in (Packing.Q5_0, Packing.Q5_1):
        return halves
    masks = ir.VectorType(ir.IntType(1), LANES)
    found = []
    for index, half in enumerate(halves):
        at = INT64(size - LANES - 4 + 2 * index)
        pointer = builder.bitcast(builder.gep(start, [at]), _SHORT.as_pointer())
        is_set = builder.bitcast(builder.load(pointer, align=2), masks)
        found.append(builder.select(is_set, builder.or_(half, ints([16] * LANES)), half))
    return tuple(found)


def _numbers_of_k(builder: ir.IRBuilder, packing: Packing, start: Any, inside: Any) -> tuple[Any, ...]:
    has_fifth = packing is Packing.Q5_K
    shift = _splat_of(builder, builder.mul(builder.and_(inside, INT64(1)), INT64(4)))
    first = builder.mul(builder.ashr(inside, INT64(1)), INT64(PIECE))
    low = builder.gep(start, [builder.add(first, INT64(48 if has_fifth else 16))])
    found = []
    for half in range(2):
        number = builder.zext(_bytes_at(builder, low, LANES * half), INTS)
        number = builder.and_(builder.lshr(number, shift), ints([15] * LANES))
        if has_fifth:
            high = builder.zext(_bytes_at(builder, start, 16 + LANES * half), INTS)
            bit = builder.and_(builder.lshr(high, _splat_of(builder, inside)), ints([1] * LANES))
            number = _joined(builder, number, bit, 4)
        found.append(number)
    return tuple(found)


def _numbers_of_q6_k(builder: ir.IRBuilder, start: Any, inside: Any) -> tuple[Any, ...]:
    """Return numbers minus 32. Bytes are joined in words of four; what shifts across bytes is masked."""
    part = builder.ashr(inside, INT64(2))  # of 128 numbers
    quarter = builder.and_(inside, INT64(3))
    low_at = builder.mul(part, INT64(64))
    low_at = builder.add(low_at, builder.mul(builder.and_(quarter, INT64(1)), INT64(PIECE)))
    high_at = builder.add(builder.mul(part, INT64(32)), INT64(128))
    low, high = (_quads_at(builder, start, at) for at in (low_at, high_at))
    low = builder.lshr(low, _quads_of(builder, builder.mul(builder.ashr(quarter, INT64(1)), INT64(4))))
    high = builder.lshr(high, _quads_of(builder, builder.mul(quarter, INT64(2))))
    low = builder.and_(low, _quads(0x0F0F0F0F))
    high = builder.shl(builder.and_(high, _quads(0x03030303)), _quads(4))
    joined = builder.bitcast(builder.or_(low, high), ir.VectorType(_BYTE, PIECE))
    centered = builder.sub(joined, ir.Constant(joined.type, [_BYTE(CENTERS[Packing.Q6_K])] * PIECE))
    halves = (ints(list(range(first, first + LANES))) for first in (0, LANES))
    return tuple(builder.sext(builder.shuffle_vector(centered, centered, lanes), INTS) for lanes in halves)


_QUADS = ir.VectorType(INT32, PIECE // 4)


def _quads_at(builder: ir.IRBuilder, start: Any, offset: Any) -> Any:
    pointer = builder.bitcast(builder.gep(start, [offset]), _QUADS.as_pointer())
    return builder.load(pointer, align=1)


def _quads(value: int) -> ir.Constant:
    return ir.Constant(_QUADS, [INT32(value)] * (PIECE // 4))


def _quads_of(builder: ir.IRBuilder, number: Any) -> Any:
    first = builder.insert_element(ir.Constant(_QUADS, ir.Undefined), builder.trunc(number, INT32), INT32(0))
    return builder.shuffle_vector(first, first, ints([0] * (PIECE // 4)))


def weights_of(
    builder: ir.IRBuilder, packing: Packing, row: Any, piece: Any, scales: tuple[Any, Any]
) -> tuple[Any, Any]:
    """Return a piece of a row as two vectors of sixteen float32 weights.

    Args:
        builder: Where to build.
        packing: The format.
        row: Byte pointer to the row's first block.
        piece: Index of the piece.
        scales: Splats of the row's factor and shift.
    """
    first, second = scales
    low, high = (builder.sitofp(half, FLOATS) for half in numbers_of(builder, packing, row, piece))
    if packing in WITH_SHIFT:
        low, high = (vectors.fused_multiply_add(builder, half, first, second) for half in (low, high))
        return low, high
    return builder.fmul(low, first), builder.fmul(high, second if packing is Packing.Q6_K else first)


def _words_at(builder: ir.IRBuilder, starts: Rows, offset: int) -> Any:
    """Return the 32-bit words of sixteen rows that are some bytes after `starts`."""
    words = ir.Constant(INTS, ir.Undefined)
    if vectors.has_feature("amx-tile"):  # Intel's, whose gathering is faster than loading one by one
        lanes = builder.mul(vectors.splat_of(builder, builder.trunc(starts.stride, INT32)), ints(_LANES))
        base = builder.gep(starts.base, [INT64(offset)])
        every = ir.Constant(ir.VectorType(ir.IntType(1), LANES), [ir.IntType(1)(1)] * LANES)
        operands = [words, base, lanes, every, INT32(1)]
        return intrinsic_call(builder, "llvm.x86.avx512.mask.gather.dpi.512", INTS, operands)
    for lane, start in enumerate(starts.pointers(builder)):
        pointer = builder.bitcast(builder.gep(start, [INT64(offset)]), INT32.as_pointer())
        words = builder.insert_element(words, builder.load(pointer, align=2), INT32(lane))
    return words


def _bytes_at(builder: ir.IRBuilder, start: Any, offset: int) -> Any:
    pointer = builder.bitcast(builder.gep(start, [INT64(offset)]), _BYTES.as_pointer())
    return builder.load(pointer, align=1)


def _halves_of(builder: ir.IRBuilder, words: Any, at: int) -> Any:
    """Return the float16 numbers at a bit of words, as float32."""
    shifted = builder.lshr(words, ints([at] * LANES)) if at else words
    return builder.fpext(builder.bitcast(builder.trunc(shifted, vectors.SHORTS), _HALVES), FLOATS)


def _bits(builder: ir.IRBuilder, words: Any, at: int, count: int) -> Any:
    shifted = builder.lshr(words, ints([at] * LANES)) if at else words
    return builder.and_(shifted, ints([(1 << count) - 1] * LANES))


def _joined(builder: ir.IRBuilder, low: Any, high: Any, at: int) -> Any:
    return builder.or_(low, builder.shl(high, ints([at] * LANES)))


def _splat_of(builder: ir.IRBuilder, number: Any) -> Any:
    """Return a vector of one int64, as 32-bit numbers."""
    return vectors.splat_of(builder, builder.trunc(number, INT32))
