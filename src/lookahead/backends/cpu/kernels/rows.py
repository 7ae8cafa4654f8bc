"""Rows of numbers: copied, added up, searched for numbers that are not finite."""

from typing import Any

from llvmlite import ir
from numba import types

from lookahead.backends.cpu.kernels import vectors
from lookahead.backends.cpu.kernels.vectors import FLOATS, INT32, INT64, INTS, LANES, loop
from lookahead.jit import compiled, intrinsic_call

_EXPONENTS = 0x7F800000
"""The bits of a float's exponent; all of them are set in an infinite number and in a NaN."""


@compiled
def copy_row(_typing: Any, source: types.CPointer, size: types.Integer, target: types.CPointer) -> Any:
    """Copy `size` numbers, a multiple of 16, to memory of the same type."""

    def generated(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        given, count, out = arguments
        kind = vectors.SHORTS if vectors.points_to_bfloat16(signature.args[0]) else INTS

        def body(index: Any, _: list[Any]) -> list[Any]:
            vectors.store(builder, vectors.load(builder, given, index, kind), out, index)
            return []

        loop(builder, INT64(0), count, LANES, [], body)
        return context.get_dummy_value()

    return types.void(source, types.int64, target), generated


@compiled
def add_scaled_row(
    _typing: Any,
    totals: types.CPointer,
    factor: types.Float,
    source: types.CPointer,
    other_factor: types.Float,
    size: types.Integer,
) -> Any:
    """Set `size` float32 totals, a multiple of 16, to totals · factor + source · other factor."""

    def generated(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        held, number, given, other, count = arguments
        factors, others = (vectors.splat_of(builder, one) for one in (number, other))

        def body(index: Any, _: list[Any]) -> list[Any]:
            scaled = builder.fmul(vectors.load(builder, held, index, FLOATS), factors)
            added = vectors.load(builder, given, index, FLOATS)
            vectors.store(builder, vectors.fused_multiply_add(builder, added, others, scaled), held, index)
            return []

        loop(builder, INT64(0), count, LANES, [], body)
        return context.get_dummy_value()

    return types.void(totals, types.float32, source, types.float32, types.int64), generated


@compiled
def is_finite_row(_typing: Any, numbers: types.CPointer, size: types.Integer) -> Any:
    """Return whether `size` numbers, a multiple of 16, are all finite."""

    def generated(_context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        pointer, count = arguments
        is_bfloat16 = vectors.points_to_bfloat16(signature.args[0])
        exponents = vectors.ints([_EXPONENTS] * LANES)

        def body(index: Any, found: list[Any]) -> list[Any]:
            loaded = vectors.load_widened(builder, pointer, index, is_bfloat16=is_bfloat16)
            bits = builder.and_(builder.bitcast(loaded, INTS), exponents)
            is_special = builder.icmp_signed("==", bits, exponents)
            return [builder.or_(found[0], builder.sext(is_special, INTS))]

        (found,) = loop(builder, INT64(0), count, LANES, [vectors.ints([0] * LANES)], body)
        any_found = intrinsic_call(builder, "llvm.vector.reduce.or.v16i32", INT32, [found])
        return builder.icmp_signed("==", any_found, INT32(0))

    return types.boolean(numbers, types.int64), generated


@compiled
def sum_of_squares(_typing: Any, numbers: types.CPointer, size: types.Integer) -> Any:
    """Return the sum of the squares of `size` numbers, a multiple of sixteen, as a float32."""

    def generated(_context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        pointer, count = arguments
        is_bfloat16 = vectors.points_to_bfloat16(signature.args[0])

        def body(index: Any, totals: list[Any]) -> list[Any]:
            loaded = vectors.load_widened(builder, pointer, index, is_bfloat16=is_bfloat16)
            return [vectors.fused_multiply_add(builder, loaded, loaded, totals[0])]

        (total,) = loop(builder, INT64(0), count, LANES, [vectors.splat(0.0)], body)
        sums = vectors.lane_sums(builder, [total] * LANES)
        return builder.extract_element(sums, INT32(0))

    return types.float32(numbers, types.int64), generated
