"""Matrix products of a few rows with a layer's weights, which are read once, where they lie.

Arguments of the same name mean the same everywhere here: `weights` points to [outputs, width], `inputs` to
[rows, width] of the same type, `scratch` to float32 [rows, CHUNK], each thread its own.
"""

from typing import Any

from lookahead.decoding.fused.pointers import int_pointer, moved
from lookahead.decoding.fused.tiles import (
    dots_4_by_4,
    dots_4_by_4_ahead,
    dots_8_by_2,
    dots_8_by_2_ahead,
    dots_16_by_1,
)
from lookahead.drafting.compilation import lean_kernel

UNIT = 16
"""Outputs that are computed at once; every matrix has at least so many."""
CHUNK = 64
"""Outputs that stay in a thread's scratch until they are rounded and written."""


@lean_kernel
def units_of(outputs: int) -> int:
    """Return how many units there are; where they do not divide the outputs, the last two overlap."""
    return (outputs + UNIT - 1) // UNIT


@lean_kernel
def share_of(count: int, member: int, members: int) -> tuple[int, int]:
    """Return the first of so many things that a member of a team does, and the first it leaves."""
    return count * member // members, count * (member + 1) // members


@lean_kernel
def dot_unit(
    weights: Any, width: int, inputs: Any, apart: int, rows: int, out: Any, stride: int
) -> None:
    """Write out[row · stride + output], the products of one unit of outputs with rows `apart` elements."""
    none = int_pointer(0)
    row = 0
    while row + 4 <= rows:
        these, place = moved(inputs, row * apart), moved(out, row * stride)
        for part in range(0, UNIT, 4):
            of_part = moved(weights, part * width)
            if row == 0:  # the next unit's weights are fetched meanwhile
                dots_4_by_4_ahead(of_part, width, none, these, apart, width, moved(place, part), stride)
            else:
                dots_4_by_4(of_part, width, none, these, apart, width, moved(place, part), stride)
        row += 4
    while row + 2 <= rows:
        these, place = moved(inputs, row * apart), moved(out, row * stride)
        for part in range(0, UNIT, 8):
            of_part = moved(weights, part * width)
            if row == 0:
                dots_8_by_2_ahead(of_part, width, none, these, apart, width, moved(place, part), stride)
            else:
                dots_8_by_2(of_part, width, none, these, apart, width, moved(place, part), stride)
        row += 2
    if row < rows:
        place = moved(out, row * stride)
        dots_16_by_1(weights, width, none, moved(inputs, row * apart), apart, width, place, stride)


@lean_kernel
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
