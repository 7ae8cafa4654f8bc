"""What a decoder does to numbers one by one, rounded wherever the library's own layers round."""

from typing import Any

import numpy as np

from lookahead.backends.cpu.kernels.pointers import (
    exponential,
    number_at,
    put,
    rounded_like,
)
from lookahead.backends.cpu.kernels.tiles import sum_of_squares
from lookahead.jit import pointer_kernel


@pointer_kernel
def normalize(numbers: Any, weight: Any, out: Any, size: int, epsilon: float) -> None:
    """Write the root-mean-square norm of one row of numbers; `out` may be the row itself.

    Args:
        numbers: pointer to [size], float32 or as the weight.
        weight: pointer to [size].
        out: pointer to [size], as the weight.
        size: a multiple of 16.
        epsilon: added to the mean of squares.
    """
    mean = sum_of_squares(numbers, size) / np.float32(size)
    factor = np.float32(1.0) / np.sqrt(mean + np.float32(epsilon))
    for index in range(size):
        normal = rounded_like(number_at(numbers, index) * factor, weight)
        put(out, index, number_at(weight, index) * normal)


@pointer_kernel
def rotate(head: Any, cosine: Any, sine: Any, out: Any, width: int) -> None:
    """Write a head's query or key turned to its position, its halves against each other.

    Args:
        head: pointer to [width].
        cosine: pointer to [width], of the same type.
        sine: pointer to [width], of the same type.
        out: pointer to float32 [width], elsewhere.
        width: of a head.
    """
    half = width // 2
    for index in range(half):
        left, right = number_at(head, index), number_at(head, index + half)
        straight = rounded_like(left * number_at(cosine, index), head)
        crossed = rounded_like(right * number_at(sine, index), head)
        put(out, index, straight - crossed)
        straight = rounded_like(right * number_at(cosine, index + half), head)
        crossed = rounded_like(left * number_at(sine, index + half), head)
        put(out, index + half, straight + crossed)


@pointer_kernel
def gate(gates: Any, ups: Any, out: Any, size: int) -> None:
    """Write silu(gate) · up of float32 products, each first rounded to what is written."""
    one = np.float32(1.0)
    for index in range(size):
        opened = rounded_like(number_at(gates, index), out)
        opened = rounded_like(opened / (one + exponential(-opened)), out)
        put(out, index, opened * rounded_like(number_at(ups, index), out))


@pointer_kernel
def add_rounded(sums: Any, products: Any, size: int, like: Any) -> None:
    """Add float32 products to a residual stream kept in float32, rounding as if it were kept as `like`."""
    for index in range(size):
        added = number_at(sums, index) + rounded_like(number_at(products, index), like)
        put(sums, index, rounded_like(added, like))


@pointer_kernel
def store_with_bias(products: Any, bias: Any, has_bias: bool, out: Any, size: int) -> None:
    """Write float32 products, rounded, with the bias added where there is one."""
    if has_bias:
        for index in range(size):
            put(out, index, number_at(products, index) + number_at(bias, index))
    else:
        for index in range(size):
            put(out, index, number_at(products, index))
