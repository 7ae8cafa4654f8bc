"""Matrix products of a few rows with a layer's weights, which are read once, where they lie.

Arguments of the same name mean the same everywhere here: `weights` points to [outputs, width], `inputs` to
[rows, width] of the same type, `scratch` to float32 [rows, CHUNK], each thread its own. Three rows are worked
on as four, which takes less time, so that inputs and scratch have room for one row more.
"""

from typing import Any

from lookahead.backends.cpu.kernels.pointers import moved
from lookahead.backends.cpu.kernels.tiles import (
    dots_4_by_4,
    dots_4_by_4_fetching_1,
    dots_4_by_4_fetching_2,
    dots_4_by_4_fetching_4,
    dots_8_by_2,
    dots_8_by_2_fetching,
    dots_16_by_1,
    dots_16_by_1_fetching,
)
from lookahead.jit import pointer_kernel

UNIT = 16
"""Outputs that are computed at once; every matrix has at least so many."""
CHUNK = 64
"""Outputs that stay in a thread's scratch until they are rounded and written."""


@pointer_kernel
def units_of(outputs: int) -> int:
    """Return how many units there are; where they do not divide the outputs, the last two overlap."""
    return (outputs + UNIT - 1) // UNIT


@pointer_kernel
def share_of(count: int, member: int, members: int) -> tuple[int, int]:
    """Return the first of so many things that a member of a team does, and the first it leaves."""
    return count * member // members, count * (member + 1) // members


@pointer_kernel
def dot_unit(weights: Any, width: int, inputs: Any, apart: int, rows: int, out: Any, stride: int) -> None:
    """Write out[row · stride + output], the products of one unit of outputs with rows `apart` elements.

    The next unit's weights are fetched meanwhile, evenly spread over the work.
    """
    fours = (rows + 1) // 4
    for four in range(fours):
        place = moved(out, 4 * four * stride)
        _dot_four_rows(weights, width, moved(inputs, 4 * four * apart), apart, place, stride, four, fours)
    row = 4 * fours
    if row + 2 <= rows:
        _dot_two_rows(
            weights, width, moved(inputs, row * apart), apart, moved(out, row * stride), stride, row == 0
        )
        row += 2
    if row < rows:
        these, place, later = (
            moved(inputs, row * apart),
            moved(out, row * stride),
            moved(weights, UNIT * width),
        )
        if rows == 1:
            dots_16_by_1_fetching(weights, width, later, these, apart, width, place, stride)
        else:
            dots_16_by_1(weights, width, later, these, apart, width, place, stride)


@pointer_kernel
def _dot_four_rows(
    weights: Any, width: int, inputs: Any, apart: int, out: Any, stride: int, four: int, fours: int
) -> None:
    """Do four rows of inputs, the `four`th of `fours`, and fetch this four's share of what comes next."""
    later = moved(weights, UNIT * width)
    for part in range(0, UNIT, 4):
        these, place = moved(weights, part * width), moved(out, part)
        if fours == 1:
            ahead = moved(later, part * width)
            dots_4_by_4_fetching_4(these, width, ahead, inputs, apart, width, place, stride)
        elif fours < 4 and four < 2:
            ahead = moved(later, (part + 2 * four) * width)
            dots_4_by_4_fetching_2(these, width, ahead, inputs, apart, width, place, stride)
        elif fours >= 4 and four < 4:
            ahead = moved(later, (part + four) * width)
            dots_4_by_4_fetching_1(these, width, ahead, inputs, apart, width, place, stride)
        else:
            dots_4_by_4(these, width, later, inputs, apart, width, place, stride)


@pointer_kernel
def _dot_two_rows(
    weights: Any, width: int, inputs: Any, apart: int, out: Any, stride: int, fetches: bool
) -> None:
    for part in range(0, UNIT, 8):
        these, place = moved(weights, part * width), moved(out, part)
        if fetches:
            ahead = moved(weights, (UNIT + part) * width)
            dots_8_by_2_fetching(these, width, ahead, inputs, apart, width, place, stride)
        else:
            dots_8_by_2(these, width, weights, inputs, apart, width, place, stride)


@pointer_kernel
def dot_chunk(
    weights: Any, outputs: int, width: int, first: int, last: int, inputs: Any, rows: int, scratch: Any
) -> tuple[int, int]:
    """Compute units `first` up to `last` of a matrix, which fit a chunk.

    Returns:
        The first output that lies in scratch, and how many there are.
    """
    start = min(first * UNIT, outputs - UNIT)
    for unit in range(first, last):
        begin = min(unit * UNIT, outputs - UNIT)
        place = moved(scratch, begin - start)
        dot_unit(moved(weights, begin * width), width, inputs, width, rows, place, CHUNK)
    return start, min(last * UNIT, outputs) - start
