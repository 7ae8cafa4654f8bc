"""Matrix products of rows of inputs with a layer's weights, which are read once, in place.

    131 outputs                        a unit: 16 outputs, whose weights are packed (`panels.py`) and then
                                       multiplied with all rows of inputs, two units at a time
    unit 0    outputs   0 -  15
    unit 1    outputs  16 -  31        in tile registers (`amx.py`)    32 rows at once, then 16
    ...                                in vectors (`panels.py`)        8 rows at once, then 4, then 1
    unit 8    outputs 115 - 130

Where 16 does not divide the outputs, the last unit overlaps the one before it; both write the same bits. With
many rows the width is divided into blocks, so that packed weights stay in the first cache. Neither changes a
sum's order.

The same argument names are used everywhere: `matrix` is a `Matrix`, `inputs` points to [rows, width] of the
same type, `scratch` to float32 [rows, CHUNK] of each thread, `space` is the thread's `Space`. Inputs and
scratch have room for more rows, which are multiplied as well: see `rows_with_room`.
"""

from typing import Any

from lookahead.backends.cpu.kernels import amx, panels
from lookahead.backends.cpu.kernels.gguf.tiled_products import dot_tiles, packs_inputs, unpack_panel
from lookahead.backends.cpu.kernels.gguf.unpacking import UNPACKING_FIELDS
from lookahead.backends.cpu.kernels.matrix import (
    CHUNK,
    MAX_PACKED_INPUTS,
    STEP,
    UNIT,
    Matrix,
    PackingField,
    Space,
)
from lookahead.backends.cpu.kernels.panels import FEW, MANY, pack_weights
from lookahead.backends.cpu.kernels.pointers import address_of, int_pointer, is_bfloat16, load_int, offset
from lookahead.jit import pointer_kernel

_FEW_ROWS = 16
"""With so few rows, reading weights takes longer than multiplying them, and whole rows are read best."""
_MAX_WORDS_IN_TILES, _MAX_WORDS_IN_VECTORS = 320, 192
"""Words of the width of which the panels of two units, and some rows of inputs, fit in the first cache."""


@pointer_kernel
def units_of(outputs: int) -> int:
    """Return the number of units of a matrix."""
    return (outputs + UNIT - 1) // UNIT


@pointer_kernel
def share_of(count: int, worker: int, workers: int) -> tuple[int, int]:
    """Return a worker's share of `count` items: the first one, and the one after the last."""
    return count * worker // workers, count * (worker + 1) // workers


@pointer_kernel
def rows_with_room(rows: int) -> int:
    """Return how many rows inputs and scratch have room for: whole tiles, and at least one row more."""
    return (rows + amx.ROWS) // amx.ROWS * amx.ROWS


@pointer_kernel
def packed_size(width: int) -> int:
    """Return how many words the panels of two units take at most."""
    return 2 * UNIT * width


@pointer_kernel
def space_size(width: int) -> int:
    """Return how many words a worker's `Space` takes, for matrices of at most this width."""
    inputs, sums = MAX_PACKED_INPUTS * width // 2, UNIT * MAX_PACKED_INPUTS
    return packed_size(width) + width + inputs + sums + 2 * UNPACKING_FIELDS


@pointer_kernel
def space_at(words: Any, width: int) -> Space:
    """Return a worker's memory that begins at a pointer to float32 [space_size(width)]."""
    scales = offset(words, packed_size(width))
    inputs = offset(scales, width)
    sums = offset(inputs, MAX_PACKED_INPUTS * width // 2)
    arguments = int_pointer(address_of(offset(sums, UNIT * MAX_PACKED_INPUTS)))
    return Space(words, scales, inputs, sums, arguments)


@pointer_kernel
def dot_chunk(
    matrix: Matrix,
    first: int,
    last: int,
    inputs: Any,
    rows: int,
    scratch: Any,
    space: Space,
    uses_tiles: bool,
) -> tuple[int, int]:
    """Compute units `first` up to `last` of a matrix, at most a chunk of them.

    `pack_inputs` has been called for the inputs.

    Returns:
        The first output in scratch, and the number of outputs there.
    """
    if packs_inputs(matrix, rows, uses_tiles):
        return dot_tiles(matrix, first, last, rows, scratch, space)
    outputs, width = matrix.outputs, matrix.width
    start = min(first * UNIT, outputs - UNIT)
    block, begin = _block_of_width(matrix, rows, uses_tiles), 0
    while begin < width:
        size = min(block, width - begin)
        unit = first
        while unit < last:
            output = unit * UNIT
            units = 2 if unit + 2 <= last and output + 2 * UNIT <= outputs else 1
            if output + UNIT <= outputs:
                given, place = offset(inputs, begin), offset(scratch, output - start)
                _multiply_units(
                    matrix, output, begin, size, units, given, rows, place, space, begin > 0, uses_tiles
                )
            elif begin + size == width:  # overlaps the unit before, whose sums are complete by now
                output = outputs - UNIT
                place = offset(scratch, output - start)
                _multiply_units(matrix, output, 0, width, 1, inputs, rows, place, space, False, uses_tiles)
            unit += units
        begin += block
    return start, min(last * UNIT, outputs) - start


@pointer_kernel
def _block_of_width(matrix: Matrix, rows: int, uses_tiles: bool) -> int:
    """Return how many numbers of the width are multiplied at once."""
    words = matrix.width // 2 if is_bfloat16(matrix.at) else matrix.width
    most = _MAX_WORDS_IN_TILES if uses_tiles else _MAX_WORDS_IN_VECTORS
    blocks = 1 if rows <= _FEW_ROWS else (words + most - 1) // most
    step = STEP if matrix.packing == 0 else load_int(int_pointer(matrix.packing), PackingField.BLOCK)
    return (matrix.width // step + blocks - 1) // blocks * step


@pointer_kernel
def _multiply_units(
    matrix: Matrix,
    output: int,
    begin: int,
    size: int,
    units: int,
    inputs: Any,
    rows: int,
    out: Any,
    space: Space,
    adds: bool,
    uses_tiles: bool,
) -> None:
    """Write out[row · CHUNK + output], the products of one or two units over `size` numbers of the width."""
    width = matrix.width
    of_unit = UNIT * size // 2 if is_bfloat16(matrix.at) else UNIT * size
    for unit in range(units):
        first, place = output + unit * UNIT, offset(space.packed, unit * of_unit)
        if matrix.packing == 0:
            at = offset(matrix.at, first * width + begin)
            pack_weights(at, width, size, place, units * UNIT * width)
        else:
            unpack_panel(matrix, first, begin, size, place, space)
    packed, row = space.packed, 0
    while row < rows:
        these, place = offset(inputs, row * width), offset(out, row * CHUNK)
        if amx.HAS_TILES and uses_tiles:
            row += _multiply_in_tiles(these, width, packed, of_unit, size, units, rows - row, place, adds)
        else:
            row += _multiply_in_vectors(these, width, packed, of_unit, size, units, rows - row, place, adds)


@pointer_kernel
def _multiply_in_tiles(
    inputs: Any, width: int, packed: Any, of_unit: int, size: int, units: int, rows: int, out: Any, adds: bool
) -> int:
    """Multiply the next rows in tile registers; return how many there were."""
    if rows > amx.ROWS:
        if units == 2:
            amx.multiply_2_by_2(inputs, width, packed, UNIT, of_unit, size, out, CHUNK, adds)
        else:
            amx.multiply_2_by_1(inputs, width, packed, UNIT, of_unit, size, out, CHUNK, adds)
        return 2 * amx.ROWS
    if units == 2:
        amx.multiply_1_by_2(inputs, width, packed, UNIT, of_unit, size, out, CHUNK, adds)
    else:
        amx.multiply_1_by_1(inputs, width, packed, UNIT, of_unit, size, out, CHUNK, adds)
    return amx.ROWS


@pointer_kernel
def _multiply_in_vectors(
    inputs: Any, width: int, packed: Any, of_unit: int, size: int, units: int, rows: int, out: Any, adds: bool
) -> int:
    """Multiply the next rows in vectors; return how many there were."""
    if rows > 2 * FEW:
        if units == 2:
            panels.multiply_many_by_2(inputs, width, packed, of_unit, size, out, CHUNK, adds)
        else:
            panels.multiply_many_by_1(inputs, width, packed, of_unit, size, out, CHUNK, adds)
        return MANY
    if rows > 1:
        if units == 2:
            panels.multiply_few_by_2(inputs, width, packed, of_unit, size, out, CHUNK, adds)
        else:
            panels.multiply_few_by_1(inputs, width, packed, of_unit, size, out, CHUNK, adds)
        return FEW
    if units == 2:
        panels.multiply_1_by_2(inputs, width, packed, of_unit, size, out, CHUNK, adds)
    else:
        panels.multiply_1_by_1(inputs, width, packed, of_unit, size, out, CHUNK, adds)
    return 1
