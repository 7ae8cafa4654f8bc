"""The CPU decoder's kernels as functions of tensors, compiled for both dtypes behind one call."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

from lookahead.backends import cpu
from lookahead.backends.cpu.kernels import amx, elementwise, pointers, products, rows
from lookahead.backends.cpu.kernels.attention import blocks
from lookahead.backends.cpu.kernels.gguf.tiled_products import pack_inputs
from lookahead.backends.cpu.kernels.matrix import CHUNK, UNIT, Matrix
from lookahead.backends.cpu.kernels.pointers import bfloat16_pointer, float_pointer, int_pointer
from lookahead.backends.cpu.packed import Weights, table_address
from lookahead.jit import kernels_digest

DTYPES = [torch.float32, torch.bfloat16]


def has_tiles(dtype: torch.dtype) -> bool:
    """Return whether products of a dtype are taken in tile registers here."""
    return dtype == torch.bfloat16 and amx.may_use_tiles()


def kinds() -> list[tuple[torch.dtype, bool]]:
    """Return the dtypes, each with and without tile registers as far as there are any."""
    return [*((dtype, False) for dtype in DTYPES), *((dtype, True) for dtype in DTYPES if has_tiles(dtype))]


TILES = amx.tile_configuration()


def wrapper(function: Callable[..., Any]) -> Any:
    """Compile a function that calls kernels; its cache is invalidated with theirs."""
    function.__qualname__ += f"-{kernels_digest(Path(cpu.__file__).parent)}"
    return numba.njit(cache=True)(function)


def holds_bfloat16(tensor: Weights) -> bool:
    return tensor.dtype == torch.bfloat16


@wrapper
def _dots(weights, packing, outputs, width, splits, inputs, rows, scratch, packed, tiles, out):
    if tiles != 0:
        amx.begin_tiles(tiles)
    matrix, space = Matrix(weights, packing, outputs, width), products.space_at(packed, width)
    pack_inputs(matrix, inputs, rows, space, tiles != 0)
    for at in range(len(splits) - 1):
        for first in range(splits[at], splits[at + 1], CHUNK // UNIT):
            last = min(first + CHUNK // UNIT, splits[at + 1])
            start, count = products.dot_chunk(matrix, first, last, inputs, rows, scratch, space, tiles != 0)
            for row in range(rows):
                for index in range(count):
                    number = pointers.load_float(scratch, row * CHUNK + index)
                    pointers.store_float(out, row * outputs + start + index, number)
    if tiles != 0:
        amx.end_tiles()


@wrapper
def _dots_at(is_bfloat16, weights, packing, outputs, width, splits, inputs, rows, floats, tiles, out):
    scratch, packed, target = float_pointer(floats[0]), float_pointer(floats[1]), float_pointer(out)
    if is_bfloat16:
        weight, given = bfloat16_pointer(weights), bfloat16_pointer(inputs)
        _dots(weight, packing, outputs, width, splits, given, rows, scratch, packed, tiles, target)
    else:
        numbers, read = float_pointer(weights), float_pointer(inputs)
        _dots(numbers, packing, outputs, width, splits, read, rows, scratch, packed, tiles, target)


def with_room(inputs: torch.Tensor) -> torch.Tensor:
    """Return the same rows, as far apart, and room for more rows: of NaN, which must not matter."""
    (rows, width), stride = inputs.shape, inputs.stride(0)
    room = torch.full((products.rows_with_room(rows) * max(stride, width),), torch.nan, dtype=inputs.dtype)
    return room.as_strided((rows, width), (stride, 1)).copy_(inputs)


def dots(
    weights: Weights,
    inputs: torch.Tensor,
    splits: list[int] | None = None,
    *,
    uses_tiles: bool | None = None,
) -> torch.Tensor:
    """Return float32 [rows, outputs], computed in parts that begin at these units.

    In tile registers if `uses_tiles`; by default, if there are any for the dtype.
    """
    outputs, width = weights.shape
    uses_tiles = has_tiles(weights.dtype) if uses_tiles is None else uses_tiles
    rows, inputs = len(inputs), with_room(inputs)
    units = -(-outputs // UNIT)
    bounds = np.array(sorted({0, *(splits or []), units}), np.int64)
    scratch = torch.empty(products.rows_with_room(rows), CHUNK)
    packed, out = torch.empty(int(products.space_size(width))), torch.full((rows, outputs), torch.nan)
    _dots_at(
        holds_bfloat16(weights), weights.data_ptr(), table_address(weights), outputs, width, bounds,
        inputs.data_ptr(), rows, (scratch.data_ptr(), packed.data_ptr()),
        TILES.ctypes.data if uses_tiles else 0, out.data_ptr(),
    )  # fmt: skip
    return out


@wrapper
def _softmax_at(is_bfloat16, scores, first, end, scale, state):
    if is_bfloat16:
        like = bfloat16_pointer(0)
        return blocks.softmax_block(float_pointer(scores), first, end, scale, float_pointer(state), like)
    like = float_pointer(0)
    return blocks.softmax_block(float_pointer(scores), first, end, scale, float_pointer(state), like)


def softmax(
    scores: torch.Tensor,
    first: int,
    end: int,
    scale: float,
    state: torch.Tensor,
    dtype: torch.dtype = torch.float32,
) -> float:
    """Turn float32 scores [64] into weights of a dtype, in place; return the decay."""
    is_bfloat16 = dtype == torch.bfloat16
    decay = float(
        _softmax_at(is_bfloat16, scores.data_ptr(), first, end, np.float32(scale), state.data_ptr())
    )
    if is_bfloat16:
        scores.copy_(scores.view(torch.bfloat16)[: len(scores)].float())
    return decay


@wrapper
def _pack(rows, width, slots, first, end, keys, values):
    blocks.pack_keys(rows, width, slots, first, end, keys)
    blocks.pack_values(rows, width, slots, first, end, values)


@wrapper
def _pack_at(is_bfloat16, rows, width, slots, first, end, keys, values):
    slot, packed_keys, packed_values = int_pointer(slots), float_pointer(keys), float_pointer(values)
    if is_bfloat16:
        _pack(bfloat16_pointer(rows), width, slot, first, end, packed_keys, packed_values)
    else:
        _pack(float_pointer(rows), width, slot, first, end, packed_keys, packed_values)


def packed(
    rows: torch.Tensor, bounds: tuple[int, int], slots: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows [slots, width] of a block packed as keys and as values."""
    size = blocks.BLOCK * rows.shape[1]
    keys, values = torch.full((size,), torch.nan), torch.full((size,), torch.nan)
    slots = torch.arange(blocks.BLOCK) if slots is None else slots
    _pack_at(
        holds_bfloat16(rows), rows.data_ptr(), rows.shape[1], slots.data_ptr(), *bounds, keys.data_ptr(),
        values.data_ptr(),
    )  # fmt: skip
    return keys, values


@wrapper
def _score(queries, count, width, keys, out):
    if count == blocks.QUERIES:
        blocks.score_all(queries, width, keys, out)
    else:
        blocks.score_one(queries, width, keys, out)


@wrapper
def _score_at(is_bfloat16, queries, count, width, keys, out):
    key, target = float_pointer(keys), float_pointer(out)
    if is_bfloat16:
        _score(bfloat16_pointer(queries), count, width, key, target)
    else:
        _score(float_pointer(queries), count, width, key, target)


def scores_of(
    queries: torch.Tensor,
    keys: torch.Tensor,
    bounds: tuple[int, int],
    slots: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return scores [1 or 4, 64] of queries [1 or 4, width]."""
    out = torch.full((len(queries), blocks.BLOCK), torch.nan)
    packed_keys, _ = packed(keys, bounds, slots)
    _score_at(
        holds_bfloat16(queries), queries.data_ptr(), len(queries), queries.shape[1],
        packed_keys.data_ptr(), out.data_ptr(),
    )  # fmt: skip
    return out


@wrapper
def _accumulate_values(together, parts, weights, values, width, first, end, decays, totals, like):
    if together == 4 and parts == 2:
        blocks.accumulate_values_all(weights, values, width, first, end, decays, totals, 32, like)
    elif together == 4:
        blocks.accumulate_values_all_wide(weights, values, width, first, end, decays, totals, 64, like)
    elif parts == 2:
        blocks.accumulate_values_one(weights, values, width, first, end, decays, totals, 32, like)
    else:
        blocks.accumulate_values_one_wide(weights, values, width, first, end, decays, totals, 64, like)


@wrapper
def _accumulate_values_at(is_bfloat16, together, parts, weights, values, width, first, end, decays, totals):
    floats, value = float_pointer(weights), float_pointer(values)
    decay, total = float_pointer(decays), float_pointer(totals)
    if is_bfloat16:
        like = bfloat16_pointer(0)
        _accumulate_values(together, parts, floats, value, width, first, end, decay, total, like)
    else:
        like = float_pointer(0)
        _accumulate_values(together, parts, floats, value, width, first, end, decay, total, like)


def accumulate_values(
    weights: torch.Tensor,
    values: torch.Tensor,
    bounds: tuple[int, int],
    decays: torch.Tensor,
    totals: torch.Tensor,
    slots: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return totals [1 or 4, 32 or 64] brought up to date with weights [1 or 4, 64] of values [slots, width].

    Weights are float32 numbers that the values' dtype can hold.
    """
    sums, is_bfloat16 = totals.clone(), holds_bfloat16(values)
    rows = weights.clone()
    if is_bfloat16:
        rows.view(torch.bfloat16)[:, : blocks.BLOCK] = weights.bfloat16()
    _, packed_values = packed(values, bounds, slots)
    _accumulate_values_at(
        is_bfloat16, len(weights), totals.shape[1] // 16, rows.data_ptr(), packed_values.data_ptr(),
        values.shape[1], *bounds, decays.data_ptr(), sums.data_ptr(),
    )  # fmt: skip
    return sums


@wrapper
def exponentials(numbers, out):
    """Write e to the power of float32 numbers."""
    for index in range(len(numbers)):
        out[index] = pointers.exponential(numbers[index])


@wrapper
def _round_all(given, count, stored, returned):
    for index in range(count):
        number = pointers.load_float(given, index)
        pointers.store_float(stored, index, number)
        pointers.store_float(returned, index, pointers.rounded_like(number, stored))


@wrapper
def _rounded_at(given, count, stored, returned):
    _round_all(float_pointer(given), count, bfloat16_pointer(stored), float_pointer(returned))


def rounded(numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float32 numbers as stored in bfloat16, and as `rounded_like` returns them in float32."""
    stored, returned = torch.zeros_like(numbers, dtype=torch.bfloat16), torch.zeros_like(numbers)
    _rounded_at(numbers.data_ptr(), numbers.numel(), stored.data_ptr(), returned.data_ptr())
    return stored, returned


@wrapper
def _elementwise(kind, first, second, third, floats, out, size):
    if kind == 0:
        pointers.store_float(floats, 0, rows.sum_of_squares(first, size))
    elif kind == 1:
        elementwise.normalize(first, second, out, size, np.float32(1e-5))
    elif kind == 2:
        elementwise.apply_rope(first, second, third, out, size)
    elif kind == 3:
        elementwise.swiglu(floats, pointers.offset(floats, size), out, size)
    elif kind == 4:
        elementwise.add_rounded(floats, pointers.offset(floats, size), size, first)
    elif kind == 5:
        elementwise.store_with_bias(floats, second, False, out, size)
    elif kind == 6:
        elementwise.store_with_bias(floats, second, True, out, size)
    else:
        elementwise.normalize(floats, second, out, size, np.float32(1e-5))


@wrapper
def _elementwise_at(is_bfloat16, kind, first, second, third, floats, out, size):
    numbers = float_pointer(floats)
    if is_bfloat16:
        left, right, last = bfloat16_pointer(first), bfloat16_pointer(second), bfloat16_pointer(third)
        _elementwise(kind, left, right, last, numbers, bfloat16_pointer(out), size)
    else:
        one, two, three = float_pointer(first), float_pointer(second), float_pointer(third)
        _elementwise(kind, one, two, three, numbers, float_pointer(out), size)


ELEMENTWISE = {
    name: number
    for number, name in enumerate(
        ("squares", "norm", "rope", "swiglu", "add", "store", "store with bias", "norm of floats")
    )
}


def elementwise_of(
    name: str, operands: list[torch.Tensor], floats: torch.Tensor, out: torch.Tensor, size: int
) -> None:
    """Call a kernel by name with operands of `out`'s dtype and with floats, which some kernels write to."""
    places = [tensor.data_ptr() for tensor in operands] + [0] * (3 - len(operands))
    _elementwise_at(holds_bfloat16(out), ELEMENTWISE[name], *places, floats.data_ptr(), out.data_ptr(), size)
