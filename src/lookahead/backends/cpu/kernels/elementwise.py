"""Norms, rotary positions and gated units, rounded wherever the layers of transformers round."""

from typing import Any

import numpy as np

from lookahead.backends.cpu.kernels.pointers import (
    exponential,
    load_float,
    rounded_like,
    store_float,
)
from lookahead.backends.cpu.kernels.tiles import sum_of_squares
from lookahead.jit import pointer_kernel


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
    for index in range(size):
        normal = rounded_like(load_float(numbers, index) * factor, weight)
        store_float(out, index, load_float(weight, index) * normal)


@pointer_kernel
def apply_rope(head: Any, cosine: Any, sine: Any, out: Any, width: int) -> None:
    """Write a head's query or key, rotated to its position: the first half against the second.

    Args:
        head: Pointer to [width].
        cosine: Pointer to [width], of the same type.
        sine: Pointer to [width], of the same type.
        out: Pointer to float32 [width], not the head itself.
        width: Of a head.
    """
    half = width // 2
    for index in range(half):
        left, right = load_float(head, index), load_float(head, index + half)
        straight = rounded_like(left * load_float(cosine, index), head)
        crossed = rounded_like(right * load_float(sine, index), head)
        store_float(out, index, straight - crossed)
        straight = rounded_like(right * load_float(cosine, index + half), head)
        crossed = rounded_like(left * load_float(sine, index + half), head)
        store_float(out, index + half, straight + crossed)


@pointer_kernel
def swiglu(gates: Any, ups: Any, out: Any, size: int) -> None:
    """Write silu(gate) · up of float32 products, each rounded to the type of `out` first."""
    one = np.float32(1.0)
    for index in range(size):
        opened = rounded_like(load_float(gates, index), out)
        opened = rounded_like(opened / (one + exponential(-opened)), out)
        store_float(out, index, opened * rounded_like(load_float(ups, index), out))


@pointer_kernel
def add_rounded(sums: Any, products: Any, size: int, like: Any) -> None:
    """Add float32 products to a float32 residual stream, rounded as if both had the type of `like`."""
    for index in range(size):
        added = load_float(sums, index) + rounded_like(load_float(products, index), like)
        store_float(sums, index, rounded_like(added, like))


@pointer_kernel
def store_with_bias(products: Any, bias: Any, has_bias: bool, out: Any, size: int) -> None:
    """Write float32 products, rounded, plus the bias if there is one."""
    if has_bias:
        for index in range(size):
            store_float(out, index, load_float(products, index) + load_float(bias, index))
    else:
        for index in range(size):
            store_float(out, index, load_float(products, index))
