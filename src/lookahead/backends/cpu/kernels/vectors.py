"""LLVM code on vectors of sixteen floats, which numba's own loops do not become.

Each sum is taken in one order, whatever else is computed: the same numbers give the same bits in a
forward pass of one token and in one of sixty-four.
"""

import platform
from collections.abc import Callable
from functools import cache
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import config, types

from lookahead.jit import intrinsic_call

LANES = 16
FLOAT, INT32, INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
FLOATS = ir.VectorType(FLOAT, LANES)
INTS = ir.VectorType(INT32, LANES)
SHORTS = ir.VectorType(ir.IntType(16), LANES)
_LOG2_E, _LN2_HIGH, _LN2_LOW = 1.44269504088896341, 0.693359375, -2.12194440e-4
_EXP_COEFFICIENTS = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
_MIN_EXPONENT, _MAX_EXPONENT = -87.33654, 88.72283
"""Natural logarithms of the smallest normal float and of the largest float."""
_MAX_POWER = 127.0
_SHIFTING = 1.5 * 2**23
"""The last bits of this float plus a whole number are those of the number."""
_EXPONENT_AT, _EXPONENT_OF_ONE = 23, 127
"""The first bit of a float's exponent, and the exponent of 1."""
_ROUNDING = 0x7FFF
_NAN_BITS = 0x7FC0
_EXP2_COEFFICIENTS = (
    9.582852993829067e-3,
    5.590642474190144e-2,
    2.402409861293272e-1,
    6.931241933916195e-1,
    1.0,
)
"""Of 2 to the power of x from -0.5 to 0.5: the relative error is 3e-6, and the power 0 gives exactly 1."""
_MIN_POWER = -125.0
_CURRENT_ROUNDING = 4
_SECOND_CACHE = 2
"""The cache level that prefetches go to: the first one is full of the current rows."""


class _BFloat(ir.Type):  # type: ignore[misc]  # llvmlite has no types
    """LLVM's type `bfloat`, which llvmlite lacks."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


_PAIRS = ir.VectorType(_BFloat(), 2 * LANES)


def multiplies_pairs() -> bool:
    """Return whether the processor that numba compiles for multiplies bfloat16 in pairs (AVX512-BF16)."""
    return has_feature("avx512bf16")


def multiplies_and_adds() -> bool:
    """Return whether the processor has fused multiply-add; the CPU decoder is slow without it."""
    return platform.machine().lower() not in {"x86_64", "amd64", "i386", "i686"} or has_feature("fma")


def has_feature(feature: str) -> bool:
    """Return whether the processor that numba compiles for has a feature."""
    settings: Any = config  # which numba fills when it is loaded
    if settings.CPU_NAME or settings.CPU_FEATURES:
        return f"+{feature}" in (settings.CPU_FEATURES or "")
    return bool(_host_features().get(feature))


@cache
def _host_features() -> Any:
    return llvmlite.binding.get_host_cpu_features()


def points_to_bfloat16(pointer: types.CPointer) -> bool:
    """Return whether a pointer is to bfloat16, which is uint16 in numba."""
    return bool(pointer.dtype == types.uint16)


def splat(value: float) -> ir.Constant:
    """Return a vector of one constant."""
    return ir.Constant(FLOATS, [ir.Constant(FLOAT, value)] * LANES)


def ints(values: list[int]) -> ir.Constant:
    """Return a constant vector of 32-bit integers, for example the lanes of a shuffle."""
    return ir.Constant(ir.VectorType(INT32, len(values)), [ir.Constant(INT32, value) for value in values])


_Body = Callable[[Any, list[Any]], list[Any]]


def loop(
    builder: ir.IRBuilder, first: Any, end: Any, step: int, initial: list[Any], body: _Body
) -> list[Any]:
    """Build a loop that carries values."""
    before = builder.block
    head, inside, after = (builder.append_basic_block(name) for name in ("head", "body", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(INT64)
    index.add_incoming(first, before)
    carried = [builder.phi(value.type) for value in initial]
    for phi, value in zip(carried, initial, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", index, end), inside, after)
    builder.position_at_end(inside)
    results = body(index, carried)
    last = builder.block
    index.add_incoming(builder.add(index, INT64(step)), last)
    for phi, value in zip(carried, results, strict=True):
        phi.add_incoming(value, last)
    builder.branch(head)
    builder.position_at_end(after)
    return carried


def splat_of(builder: ir.IRBuilder, value: Any) -> Any:
    """Return a vector of one number that is computed at run time."""
    kind = ir.VectorType(value.type, LANES)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, INT32(0))
    return builder.shuffle_vector(first, first, ints([0] * LANES))


def fused_multiply_add(builder: ir.IRBuilder, first: Any, second: Any, summand: Any) -> Any:
    """Return first · second + summand, rounded once, of scalars or vectors."""
    suffix = "v16f32" if summand.type == FLOATS else "f32"
    return intrinsic_call(builder, f"llvm.fma.{suffix}", summand.type, [first, second, summand])


def prefetch(builder: ir.IRBuilder, pointer: Any, index: Any) -> None:
    """Prefetch an address, which may be invalid."""
    byte = ir.IntType(8).as_pointer()
    place = builder.bitcast(builder.gep(pointer, [index]), byte)
    kinds = [place, *(ir.Constant(INT32, number) for number in (0, _SECOND_CACHE, 1))]
    intrinsic_call(builder, "llvm.prefetch.p0", ir.VoidType(), kinds)


def load(builder: ir.IRBuilder, pointer: Any, index: Any, kind: ir.Type) -> Any:
    """Load a vector; the address need not be aligned."""
    place = builder.bitcast(builder.gep(pointer, [index]), kind.as_pointer())
    return builder.load(place, align=2)


def load_widened(builder: ir.IRBuilder, pointer: Any, index: Any, *, is_bfloat16: bool) -> Any:
    """Load sixteen numbers as floats."""
    if not is_bfloat16:
        return load(builder, pointer, index, FLOATS)
    wide = builder.zext(load(builder, pointer, index, SHORTS), INTS)
    return builder.bitcast(builder.shl(wide, ints([16] * LANES)), FLOATS)


def dot_step(builder: ir.IRBuilder, first: Any, second: Any, total: Any, *, is_bfloat16: bool) -> Any:
    """Add the products of two vectors, lane by lane; a bfloat16 lane adds the products of two numbers."""
    if not is_bfloat16:
        return fused_multiply_add(builder, first, second, total)
    if multiplies_pairs():
        operands = [total, builder.bitcast(first, _PAIRS), builder.bitcast(second, _PAIRS)]
        return intrinsic_call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, operands)
    for part in range(2):
        left, right = (_half_of_pairs(builder, operand, part) for operand in (first, second))
        total = fused_multiply_add(builder, left, right, total)
    return total


def _half_of_pairs(builder: ir.IRBuilder, pairs: Any, part: int) -> Any:
    words = builder.bitcast(pairs, INTS)
    if part == 0:
        return builder.bitcast(builder.shl(words, ints([16] * LANES)), FLOATS)
    return builder.bitcast(builder.and_(words, ints([-65536] * LANES)), FLOATS)


def dot_words(builder: ir.IRBuilder, first: Any, second: Any, total: Any, *, is_bfloat16: bool) -> Any:
    """Add the products of two vectors of words, lane by lane; see `dot_step`."""
    if not is_bfloat16:
        first, second = builder.bitcast(first, FLOATS), builder.bitcast(second, FLOATS)
    return dot_step(builder, first, second, total, is_bfloat16=is_bfloat16)


def store(builder: ir.IRBuilder, vector: Any, pointer: Any, index: Any) -> None:
    """Store a vector; the address need not be aligned, and `index` counts elements of the pointer."""
    place = builder.bitcast(builder.gep(pointer, [index]), vector.type.as_pointer())
    builder.store(vector, place, align=2)


def transposed(builder: ir.IRBuilder, rows: list[Any]) -> list[Any]:
    """Return the columns of a matrix whose rows are sixteen vectors of words."""
    twos = _interleaved(builder, rows, 1, _alternating((0, 1)), _alternating((2, 3)))
    fours = _interleaved(builder, twos, 2, _in_quarters((0, 1), (0, 1)), _in_quarters((2, 3), (2, 3)))
    even, odd = _of_quarters((0, 2), (0, 2)), _of_quarters((1, 3), (1, 3))
    columns: list[Any] = [None] * LANES
    for at in range(4):
        first, second, third, last = fours[at::4]
        halves = [
            builder.shuffle_vector(*pair, ints(lanes))
            for lanes in (even, odd)
            for pair in ((first, second), (third, last))
        ]
        for quarter in range(4):
            pair = halves[:2] if quarter % 2 == 0 else halves[2:]
            columns[4 * quarter + at] = builder.shuffle_vector(*pair, ints(even if quarter < 2 else odd))
    return columns


def _alternating(lanes: tuple[int, int]) -> list[int]:
    """Return alternating lanes of two vectors, alike in each quarter."""
    both = [vector * LANES + lane for lane in lanes for vector in range(2)]
    return [start + lane for start in range(0, LANES, 4) for lane in both]


def _interleaved(
    builder: ir.IRBuilder, rows: list[Any], stride: int, low: list[int], high: list[int]
) -> list[Any]:
    """Return vectors made of pairs `stride` apart, low parts first."""
    made = []
    for start in range(0, LANES, 2 * stride):
        for at in range(start, start + stride):
            pair = (rows[at], rows[at + stride])
            made += [builder.shuffle_vector(*pair, ints(lanes)) for lanes in (low, high)]
    return made


def bfloat16_bits(builder: ir.IRBuilder, number: Any) -> Any:
    """Return the upper sixteen bits of floats as integers, rounded to nearest even; a NaN stays one."""
    is_vector = number.type == FLOATS
    kind = INTS if is_vector else INT32

    def constant(value: int) -> Any:
        return ints([value] * LANES) if is_vector else ir.Constant(INT32, value)

    bits = builder.bitcast(number, kind)
    odd = builder.and_(builder.lshr(bits, constant(16)), constant(1))
    rounded = builder.lshr(builder.add(builder.add(bits, odd), constant(_ROUNDING)), constant(16))
    is_nan = builder.fcmp_unordered("uno", number, number)
    return builder.select(is_nan, constant(_NAN_BITS), rounded)


def rounded(builder: ir.IRBuilder, numbers: Any, *, is_bfloat16: bool) -> Any:
    """Return a vector of floats, each rounded to bfloat16 if so asked."""
    if not is_bfloat16:
        return numbers
    bits = builder.shl(bfloat16_bits(builder, numbers), ints([16] * LANES))
    return builder.bitcast(bits, FLOATS)


def store_rounded(
    builder: ir.IRBuilder, numbers: Any, pointer: Any, index: Any, *, is_bfloat16: bool
) -> None:
    """Store a vector of floats as float32 or bfloat16."""
    if not is_bfloat16:
        store(builder, numbers, pointer, index)
        return
    shorts = builder.trunc(bfloat16_bits(builder, numbers), SHORTS)
    store(builder, shorts, builder.bitcast(pointer, ir.IntType(16).as_pointer()), index)


def bfloat16_words(builder: ir.IRBuilder, low: Any, high: Any) -> Any:
    """Return two vectors of floats, rounded to bfloat16, as one vector of words: two numbers in each.

    Processors with AVX512-BF16 round in one instruction, to the same bits but for numbers below the smallest
    normal float, which become 0: only for numbers that are none of these.
    """
    if multiplies_pairs():
        pairs = intrinsic_call(builder, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", _PAIRS, [high, low])
        return builder.bitcast(pairs, INTS)
    shorts = [builder.trunc(bfloat16_bits(builder, half), SHORTS) for half in (low, high)]
    return builder.bitcast(builder.shuffle_vector(*shorts, ints(list(range(2 * LANES)))), INTS)


def _of_quarters(first: tuple[int, ...], second: tuple[int, ...]) -> list[int]:
    """Return lanes in whole quarters of two vectors, a shuffle that processors do in one instruction."""
    quarters = (*first, *(quarter + 4 for quarter in second))
    return [4 * quarter + lane for quarter in quarters for lane in range(4)]


def _in_quarters(first: tuple[int, int], second: tuple[int, int]) -> list[int]:
    """Return lanes, alike in each quarter: two of the first vector, then two of the second."""
    lanes = (*first, *(lane + LANES for lane in second))
    return [start + lane for start in range(0, LANES, 4) for lane in lanes]


_HALVING = (  # each step adds the two halves of every vector and puts two results into one vector
    (_of_quarters((0, 1), (0, 1)), _of_quarters((2, 3), (2, 3))),
    (_of_quarters((0, 2), (0, 2)), _of_quarters((1, 3), (1, 3))),
    (_in_quarters((0, 1), (0, 1)), _in_quarters((2, 3), (2, 3))),
    (_in_quarters((0, 2), (0, 2)), _in_quarters((1, 3), (1, 3))),
)


def lane_sums(builder: ir.IRBuilder, vectors: list[Any]) -> Any:
    """Return one vector, the sums of the lanes of sixteen vectors, each added in the same order."""
    vectors = [
        vectors[4 * (place % 4) + place // 4] for place in range(LANES)
    ]  # so that the sums come out in order
    for low, high in _HALVING:
        vectors = [
            builder.fadd(
                builder.shuffle_vector(first, second, ints(low)),
                builder.shuffle_vector(first, second, ints(high)),
            )
            for first, second in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return vectors[0]


def larger(builder: ir.IRBuilder, first: Any, second: Any) -> Any:
    """Return the larger of two numbers; of a number and a NaN, the second one."""
    return builder.select(builder.fcmp_ordered(">", first, second), first, second)


def exponential(builder: ir.IRBuilder, value: Any, *, may_be_positive: bool = True) -> Any:
    """Return e to the power of a float or a vector, to about one unit in the last place.

    As in torch's attention the result is 0 where it would be less than the smallest normal float. It is
    infinite where it would be more than the largest one, and NaN for a NaN.
    """
    is_vector = value.type == FLOATS
    suffix, whole = ("v16f32", INTS) if is_vector else ("f32", INT32)

    def constant(number: float) -> Any:
        return splat(number) if is_vector else ir.Constant(FLOAT, number)

    def whole_constant(number: int) -> Any:
        return ints([number] * LANES) if is_vector else ir.Constant(INT32, number)

    power = fused_multiply_add(builder, value, constant(_LOG2_E), constant(0.5))
    power = intrinsic_call(builder, f"llvm.floor.{suffix}", value.type, [power])
    if may_be_positive:
        is_above = builder.fcmp_ordered(">", power, constant(_MAX_POWER))
        power = builder.select(is_above, constant(_MAX_POWER), power)
    rest = fused_multiply_add(builder, power, constant(-_LN2_HIGH), value)
    rest = fused_multiply_add(builder, power, constant(-_LN2_LOW), rest)
    total = constant(_EXP_COEFFICIENTS[0])
    for coefficient in _EXP_COEFFICIENTS[1:]:
        total = fused_multiply_add(builder, total, rest, constant(coefficient))
    total = fused_multiply_add(builder, total, builder.fmul(rest, rest), builder.fadd(rest, constant(1.0)))
    # Not `fptosi`, which is undefined for a NaN.
    shifted = builder.bitcast(builder.fadd(power, constant(_SHIFTING)), whole)
    exponent = builder.add(shifted, whole_constant(_EXPONENT_OF_ONE))
    scale = builder.bitcast(builder.shl(exponent, whole_constant(_EXPONENT_AT)), value.type)
    is_below = builder.fcmp_ordered("<", value, constant(_MIN_EXPONENT))
    result = builder.select(is_below, constant(0.0), builder.fmul(total, scale))
    if may_be_positive:
        is_above = builder.fcmp_ordered(">", value, constant(_MAX_EXPONENT))
        result = builder.select(is_above, constant(float("inf")), result)
    return result


def power_of_two(builder: ir.IRBuilder, value: Any) -> Any:
    """Return 2 to the power of a vector of numbers that are not above 1, with a relative error of 3e-6.

    The result is exactly 1 for 0, 0 below -125, and NaN for a NaN. No result is below the smallest normal
    float: such numbers take a hundred times as long. Processors with AVX-512 scale in one instruction, to the
    same bits.
    """
    shifting, zero = splat(_SHIFTING), splat(0.0)
    shifted = builder.fadd(value, shifting)
    power = builder.fsub(shifted, shifting)
    rest = builder.fsub(value, power)
    total = splat(_EXP2_COEFFICIENTS[0])
    for coefficient in _EXP2_COEFFICIENTS[1:]:
        total = fused_multiply_add(builder, total, rest, splat(coefficient))
    is_normal = builder.fcmp_unordered(">=", value, splat(_MIN_POWER))
    if has_feature("avx512f"):
        mask = builder.bitcast(is_normal, ir.IntType(LANES))
        operands = [total, power, zero, mask, INT32(_CURRENT_ROUNDING)]
        return intrinsic_call(builder, "llvm.x86.avx512.mask.scalef.ps.512", FLOATS, operands)
    exponent = builder.add(builder.bitcast(shifted, INTS), ints([_EXPONENT_OF_ONE] * LANES))
    scale = builder.bitcast(builder.shl(exponent, ints([_EXPONENT_AT] * LANES)), FLOATS)
    return builder.select(is_normal, builder.fmul(total, scale), zero)
