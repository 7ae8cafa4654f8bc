"""Matrix products of a few rows of inputs with a layer's weights, which are read once, in place.

    131 outputs                        a unit: 16 outputs times all rows of inputs, in tiles of 16 sums

    unit 0    outputs   0 -  15        each four rows of inputs      4 tiles, 4 outputs by 4 rows
    unit 1    outputs  16 -  31        two last rows                 2 tiles, 8 outputs by 2 rows
    ...                                one last row                  1 tile, 16 outputs by 1 row
    unit 8    outputs 115 - 130        three last rows               as four, which is faster

Where 16 does not divide the outputs, the last unit overlaps the one before it; both write the same bits.
Because three rows are computed as four, inputs and scratch have room for more rows: see `rows_with_room`.

In tile registers (`amx.py`) two units are multiplied with 32 rows at a time, and the weights are packed before.
For many rows that is done in blocks of the width, so that the packed weights stay in the first cache.

The same argument names are used everywhere: `weights` points to [outputs, width], `inputs` to [rows, width]
of the same type, `scratch` to float32 [rows, CHUNK] of each thread, `packed` to its float32 [packed_size].
"""

from typing import Any

from lookahead.backends.cpu.kernels.amx import (
    ROWS,
    STEP,
    multiply_1_by_1,
    multiply_1_by_2,
    multiply_2_by_1,
    multiply_2_by_2,
    pack_weights,
)
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
_FEW_ROWS = 64
"""With so few rows, reading weights takes longer than multiplying them, and whole rows are read best."""
_MAX_BLOCK = 640
"""Numbers of the width of which the packed weights of two units fit in the first cache."""


@pointer_kernel
def rows_with_room(rows: int) -> int:
    """Return how many rows inputs and scratch have room for: whole tiles, and at least one row more."""
    return (rows + ROWS) // ROWS * ROWS


def packed_size(width: int) -> int:
    """Return how many float32 the packed weights of two units take."""
    return 2 * UNIT * width // 2


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
    weights: Any,
    outputs: int,
    width: int,
    first: int,
    last: int,
    inputs: Any,
    rows: int,
    scratch: Any,
    packed: Any,
    uses_tiles: bool,
) -> tuple[int, int]:
    """Compute units `first` up to `last` of a matrix, at most a chunk of them.

    Returns:
        The first output in scratch, and the number of outputs there.
    """
    start = min(first * UNIT, outputs - UNIT)
    if uses_tiles:
        _multiply_chunk(weights, outputs, width, first, last, inputs, rows, scratch, packed)
        return start, min(last * UNIT, outputs) - start
    for unit in range(first, last):
        begin = min(unit * UNIT, outputs - UNIT)
        place = offset(scratch, begin - start)
        dot_unit(offset(weights, begin * width), width, inputs, width, rows, place, CHUNK)
    return start, min(last * UNIT, outputs) - start


@pointer_kernel
def _multiply_chunk(
    weights: Any,
    outputs: int,
    width: int,
    first: int,
    last: int,
    inputs: Any,
    rows: int,
    scratch: Any,
    packed: Any,
) -> None:
    """Write a chunk's products in tile registers."""
    start = min(first * UNIT, outputs - UNIT)
    blocks = 1 if rows <= _FEW_ROWS else (width + _MAX_BLOCK - 1) // _MAX_BLOCK
    block, begin = (width // STEP + blocks - 1) // blocks * STEP, 0
    while begin < width:
        size = min(block, width - begin)
        unit = first
        while unit < last:
            output = unit * UNIT
            units = 2 if unit + 2 <= last and output + 2 * UNIT <= outputs else 1
            if output + UNIT <= outputs:
                at = offset(weights, output * width + begin)
                given, place = offset(inputs, begin), offset(scratch, output - start)
                _multiply_units(at, width, size, units, given, rows, place, packed, begin > 0)
            elif begin + size == width:  # overlaps the unit before, whose sums are complete by now
                output = outputs - UNIT
                at, place = offset(weights, output * width), offset(scratch, output - start)
                _multiply_units(at, width, width, 1, inputs, rows, place, packed, False)
            unit += units
        begin += block


@pointer_kernel
def _multiply_units(
    weights: Any, width: int, size: int, units: int, inputs: Any, rows: int, out: Any, packed: Any, adds: bool
) -> None:
    """Write out[row · CHUNK + output], the products of one or two units over `size` numbers of the width."""
    of_unit = UNIT * size // 2
    for unit in range(units):
        at, place = offset(weights, unit * UNIT * width), offset(packed, unit * of_unit)
        pack_weights(at, width, size, place, units * UNIT * width)
    tiles, tile = (rows + ROWS - 1) // ROWS, 0
    while tile < tiles:
        these, place = offset(inputs, tile * ROWS * width), offset(out, tile * ROWS * CHUNK)
        if tile + 2 <= tiles and units == 2:
            multiply_2_by_2(these, width, packed, UNIT, of_unit, size, place, CHUNK, adds)
        elif tile + 2 <= tiles:
            multiply_2_by_1(these, width, packed, UNIT, of_unit, size, place, CHUNK, adds)
        elif units == 2:
            multiply_1_by_2(these, width, packed, UNIT, of_unit, size, place, CHUNK, adds)
        else:
            multiply_1_by_1(these, width, packed, UNIT, of_unit, size, place, CHUNK, adds)
        tile += 2
