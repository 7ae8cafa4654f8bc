"""Norms, rotary positions and gated units, rounded wherever the layers of transformers round."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from lookahead.backends.cpu.kernels import vectors
from lookahead.backends.cpu.kernels.rows import sum_of_squares
from lookahead.backends.cpu.kernels.vectors import FLOATS, INT64, LANES, loop
from lookahead.jit import compiled, pointer_kernel


def _each_vector(builder: ir.IRBuilder, size: Any, body: Callable[[Any], None]) -> None:
    """Build a loop over sixteen numbers at a time."""

    def of_index(index: Any, _: list[Any]) -> list[Any]:
        body(index)
        return []

    loop(builder, INT64(0), size, LANES, [], of_index)


@compiled
def _weigh_row(
    _typing: Any,
    numbers: types.CPointer,
    factor: types.Float,
    weight: types.CPointer,
    out: types.CPointer,
    size: types.Integer,
) -> Any:
    """Write numbers · factor, rounded, times the weights."""

    def generated(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        given, number, weights, target, count = arguments
        is_given_bfloat16 = vectors.points_to_bfloat16(signature.args[0])
        is_bfloat16 = vectors.points_to_bfloat16(signature.args[2])
        factors = vectors.splat_of(builder, number)

        def body(index: Any) -> None:
            loaded = vectors.load_widened(builder, given, index, is_bfloat16=is_given_bfloat16)
            weighed = vectors.load_widened(builder, weights, index, is_bfloat16=is_bfloat16)
            normal = vectors.rounded(builder, builder.fmul(loaded, factors), is_bfloat16=is_bfloat16)
            product = builder.fmul(weighed, normal)
            vectors.store_rounded(builder, product, target, index, is_bfloat16=is_bfloat16)

        _each_vector(builder, count, body)
        return context.get_dummy_value()

    return types.void(numbers, types.float32, weight, out, types.int64), generated


@pointer_kernel
def normalize(numbers: Any, weight: Any, out: Any, size: int, epsilon: float) -> None:
    """Write the RMS norm of a row of numbers; `out` may be the row itself.

    Args:
        numbers: Pointer to [size], float32 or the weight's type.
        weight: Pointer to [size].
        out: Pointer to [size], of the weight's type.
        size: A multiple of 16.
        epsilon: Added to the mean of squares.
    """
    mean = sum_of_squares(numbers, size) / np.float32(size)
    factor = np.float32(1.0) / np.sqrt(mean + np.float32(epsilon))
    _weigh_row(numbers, factor, weight, out, size)


@compiled
def apply_rope(
    _typing: Any,
    head: types.CPointer,
    cosine: types.CPointer,
    sine: types.CPointer,
    out: types.CPointer,
    width: types.Integer,
) -> Any:
    """Write a head's query or key, rotated to its position: the first half against the second.

    Args:
        head: Pointer to [width].
        cosine: Pointer to [width], of the same type.
        sine: Pointer to [width], of the same type.
        out: Pointer to [width], of the same type; it may be the head itself.
        width: Of a head, a multiple of 32.
    """

    def generated(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        given, cosines, sines, target, size = arguments
        is_bfloat16 = vectors.points_to_bfloat16(signature.args[0])
        half = builder.sdiv(size, INT64(2))

        def product(number: Any, factors: Any, index: Any) -> Any:
            loaded = vectors.load_widened(builder, factors, index, is_bfloat16=is_bfloat16)
            return vectors.rounded(builder, builder.fmul(number, loaded), is_bfloat16=is_bfloat16)

        def body(index: Any) -> None:
            other = builder.add(index, half)
            left, right = (
                vectors.load_widened(builder, given, at, is_bfloat16=is_bfloat16) for at in (index, other)
            )
            first = builder.fsub(product(left, cosines, index), product(right, sines, index))
            second = builder.fadd(product(right, cosines, other), product(left, sines, other))
            for at, rotated in ((index, first), (other, second)):
                vectors.store_rounded(builder, rotated, target, at, is_bfloat16=is_bfloat16)

        _each_vector(builder, half, body)
        return context.get_dummy_value()

    return types.void(head, cosine, sine, out, types.int64), generated


@compiled
def swiglu(
    _typing: Any, gates: types.CPointer, ups: types.CPointer, out: types.CPointer, size: types.Integer
) -> Any:
    """Write silu(gate) · up of float32 products, each rounded to the type of `out` first."""

    def generated(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        gates_at, ups_at, target, count = arguments
        is_bfloat16 = vectors.points_to_bfloat16(signature.args[2])
        one, minus_zero = vectors.splat(1.0), vectors.splat(-0.0)

        def rounded(numbers: Any) -> Any:
            return vectors.rounded(builder, numbers, is_bfloat16=is_bfloat16)

        def body(index: Any) -> None:
            gate, up = (rounded(vectors.load(builder, at, index, FLOATS)) for at in (gates_at, ups_at))
            power = vectors.exponential(builder, builder.fsub(minus_zero, gate))
            opened = rounded(builder.fdiv(gate, builder.fadd(one, power)))
            product = builder.fmul(opened, up)
            vectors.store_rounded(builder, product, target, index, is_bfloat16=is_bfloat16)

        _each_vector(builder, count, body)
        return context.get_dummy_value()

    return types.void(gates, ups, out, types.int64), generated


@compiled
def add_rounded(
    _typing: Any, sums: types.CPointer, products: types.CPointer, size: types.Integer, like: types.CPointer
) -> Any:
    """Add float32 products to a float32 residual stream, rounded as if both had the type of `like`."""

    def generated(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        held, given, count, _ = arguments
        is_bfloat16 = vectors.points_to_bfloat16(signature.args[3])

        def body(index: Any) -> None:
            product = vectors.load(builder, given, index, FLOATS)
            product = vectors.rounded(builder, product, is_bfloat16=is_bfloat16)
            added = builder.fadd(vectors.load(builder, held, index, FLOATS), product)
            vectors.store(builder, vectors.rounded(builder, added, is_bfloat16=is_bfloat16), held, index)

        _each_vector(builder, count, body)
        return context.get_dummy_value()

    return types.void(sums, products, types.int64, like), generated


@compiled
def store_with_bias(
    _typing: Any,
    products: types.CPointer,
    bias: types.CPointer,
    has_bias: types.Boolean,
    out: types.CPointer,
    size: types.Integer,
) -> Any:
    """Write float32 products, rounded, plus the bias if there is one.

    There are at least 16; if 16 does not divide their number, the last vector overlaps the one before.
    """

    def generated(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        given, biases, is_biased, target, count = arguments
        last = builder.sub(count, INT64(LANES))
        is_bfloat16 = vectors.points_to_bfloat16(signature.args[1])

        def stored(index: Any, *, is_biased: bool) -> None:
            index = builder.select(builder.icmp_signed(">", index, last), last, index)
            product = vectors.load(builder, given, index, FLOATS)
            if is_biased:
                loaded = vectors.load_widened(builder, biases, index, is_bfloat16=is_bfloat16)
                product = builder.fadd(product, loaded)
            vectors.store_rounded(builder, product, target, index, is_bfloat16=is_bfloat16)

        with builder.if_else(is_biased) as (then, otherwise):
            with then:
                _each_vector(builder, count, partial(stored, is_biased=True))
            with otherwise:
                _each_vector(builder, count, partial(stored, is_biased=False))
        return context.get_dummy_value()

    return types.void(products, bias, types.boolean, out, types.int64), generated
