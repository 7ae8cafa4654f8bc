"""Matrix products of a few rows of inputs with a layer's weights, which are read once, in place.

    131 outputs                        a unit: 16 outputs times all rows of inputs, in tiles of 16 sums

    unit 0    outputs   0 -  15        each four rows of inputs      4 tiles, 4 outputs by 4 rows
    unit 1    outputs  16 -  31        two last rows                 2 tiles, 8 outputs by 2 rows
    ...                                one last row                  1 tile, 16 outputs by 1 row
    unit 8    outputs 115 - 130        three last rows               as four, which is faster

Where 16 does not divide the outputs, the last unit overlaps the one before it; both write the same bits.
Because three rows are computed as four, inputs and scratch have room for one row more.

The same argument names are used everywhere: `weights` points to [outputs, width], `inputs` to [rows, width]
of the same type, `scratch` to float32 [rows, CHUNK] of each thread.
"""

from typing import Any

from lookahead.backends.cpu.kernels.pointers import offset
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
"""Outputs that are computed at once; every matrix has at least as many."""
CHUNK = 64
"""Outputs that a thread's scratch holds until they are rounded and written."""


@pointer_kernel
def units_of(outputs: int) -> int:
    """Return the number of units of a matrix."""
    return (outputs + UNIT - 1) // UNIT


@pointer_kernel
def share_of(count: int, worker: int, workers: int) -> tuple[int, int]:
    """Return a worker's share of `count` items: the first one, and the one after the last."""
    return count * worker // workers, count * (worker + 1) // workers


@pointer_kernel
def dot_unit(
    weights: Any, width: int, inputs: Any, input_stride: int, rows: int, out: Any, out_stride: int
) -> None:
    """Write out[row · out_stride + output], the products of one unit with rows of inputs.

    The weights of the next unit are prefetched meanwhile, evenly over the work.
    """
    fours = (rows + 1) // 4
    for four in range(fours):
        these, place = offset(inputs, 4 * four * input_stride), offset(out, 4 * four * out_stride)
        _dot_four_rows(weights, width, these, input_stride, place, out_stride, four, fours)
    row = 4 * fours
    if row + 2 <= rows:
        these, place = offset(inputs, row * input_stride), offset(out, row * out_stride)
        _dot_two_rows(weights, width, these, input_stride, place, out_stride, row == 0)
        row += 2
    if row < rows:
        these, place = offset(inputs, row * input_stride), offset(out, row * out_stride)
        later = offset(weights, UNIT * width)
        if rows == 1:
            dots_16_by_1_fetching(weights, width, later, these, input_stride, width, place, out_stride)
        else:
            dots_16_by_1(weights, width, later, these, input_stride, width, place, out_stride)


@pointer_kernel
def _dot_four_rows(
    weights: Any, width: int, inputs: Any, input_stride: int, out: Any, out_stride: int, four: int, fours: int
) -> None:
    """Multiply four rows of inputs, group `four` of `fours`; prefetch the group's share of the next unit."""
    later = offset(weights, UNIT * width)
    for part in range(0, UNIT, 4):
        these, place = offset(weights, part * width), offset(out, part)
        if fours == 1:
            ahead = offset(later, part * width)
            dots_4_by_4_fetching_4(these, width, ahead, inputs, input_stride, width, place, out_stride)
        elif fours < 4 and four < 2:
            ahead = offset(later, (part + 2 * four) * width)
            dots_4_by_4_fetching_2(these, width, ahead, inputs, input_stride, width, place, out_stride)
        elif fours >= 4 and four < 4:
            ahead = offset(later, (part + four) * width)
            dots_4_by_4_fetching_1(these, width, ahead, inputs, input_stride, width, place, out_stride)
        else:
            dots_4_by_4(these, width, later, inputs, input_stride, width, place, out_stride)


@pointer_kernel
def _dot_two_rows(
    weights: Any, width: int, inputs: Any, input_stride: int, out: Any, out_stride: int, prefetches: bool
) -> None:
    """Multiply two rows of inputs; prefetch the next unit if no four rows came before."""
    for part in range(0, UNIT, 8):
        these, place = offset(weights, part * width), offset(out, part)
        if prefetches:
            ahead = offset(weights, (UNIT + part) * width)
            dots_8_by_2_fetching(these, width, ahead, inputs, input_stride, width, place, out_stride)
        else:
            dots_8_by_2(these, width, weights, inputs, input_stride, width, place, out_stride)


@pointer_kernel
def dot_chunk(
    weights: Any, outputs: int, width: int, first: int, last: int, inputs: Any, rows: int, scratch: Any
) -> tuple[int, int]:
    """Compute units `first` up to `last` of a matrix, at most a chunk of them.

    Returns:
        The first output in scratch, and the number of outputs there.
    """
    start = min(first * UNIT, outputs - UNIT)
    for unit in range(first, last):
        begin = min(unit * UNIT, outputs - UNIT)
        place = offset(scratch, begin - start)
        dot_unit(offset(weights, begin * width), width, inputs, width, rows, place, CHUNK)
    return start, min(last * UNIT, outputs) - start
