"""Unpacking sixteen rows of a matrix, and their products with few rows of inputs; see `unpacking.py`."""

from typing import Any

from lookahead.backends.cpu.kernels import amx
from lookahead.backends.cpu.kernels.gguf.unpacking import UnpackingField
from lookahead.backends.cpu.kernels.matrix import (
    CHUNK,
    MAX_PACKED_INPUTS,
    UNIT,
    Matrix,
    PackingField,
    Space,
)
from lookahead.backends.cpu.kernels.panels import pack_weights, transpose_sums
from lookahead.backends.cpu.kernels.pointers import (
    address_of,
    call_with,
    int_pointer,
    load_int,
    offset,
    store_int,
)
from lookahead.jit import pointer_kernel


@pointer_kernel
def unpack_panel(matrix: Matrix, output: int, begin: int, size: int, target: Any, space: Space) -> None:
    """Unpack a part of the width of sixteen rows to a panel.

    Args:
        matrix: A packed one.
        output: The first row.
        begin: The first number; it begins a block.
        size: Numbers of the width, whole blocks.
        target: Pointer to the panel.
        space: The worker's memory.
    """
    _set_rows(matrix, output, begin, size, target, space)
    call_with(load_int(int_pointer(matrix.packing), PackingField.PANELS_AT), space.arguments)


@pointer_kernel
def _set_rows(matrix: Matrix, output: int, begin: int, size: int, target: Any, space: Space) -> None:
    """Set the arguments of unpacking that say what is unpacked, and where to."""
    packing, arguments = int_pointer(matrix.packing), space.arguments
    row_size, head = load_int(packing, PackingField.ROW_SIZE), load_int(packing, PackingField.INTERLEAVED)
    row, stride = output, row_size
    if head != 0:  # row i of a head's half j is row 2i + j of the head in the file
        inside = output % head
        half = inside // (head // 2)
        row, stride = output - inside + 2 * (inside - half * (head // 2)) + half, 2 * row_size
    skipped = begin // load_int(packing, PackingField.BLOCK) * load_int(packing, PackingField.BLOCK_SIZE)
    store_int(arguments, UnpackingField.WEIGHTS_AT, address_of(matrix.at) + row * row_size + skipped)
    store_int(arguments, UnpackingField.STRIDE, stride)
    store_int(arguments, UnpackingField.WIDTH, size)
    store_int(arguments, UnpackingField.TARGET_AT, address_of(target))
    store_int(arguments, UnpackingField.SCALES_AT, address_of(space.scales))
    store_int(arguments, UnpackingField.AHEAD, UNIT * stride + (UNIT - 1) * skipped)


@pointer_kernel
def packs_inputs(matrix: Matrix, rows: int, uses_tiles: bool) -> bool:
    """Return whether rows of inputs are packed for products with a matrix."""
    return amx.HAS_TILES and uses_tiles and matrix.packing != 0 and rows <= MAX_PACKED_INPUTS


@pointer_kernel
def pack_inputs(matrix: Matrix, inputs: Any, rows: int, space: Space, uses_tiles: bool) -> None:
    """Pack inputs for `dot_tiles`, if a product with this matrix takes them packed."""
    if packs_inputs(matrix, rows, uses_tiles):
        width, unit = matrix.width, UNIT * matrix.width
        for tile in range(_tiles_of(rows)):
            place = offset(space.inputs, tile * (unit // 2))
            pack_weights(offset(inputs, tile * unit), width, width, place, 0)


@pointer_kernel
def dot_tiles(
    matrix: Matrix, first: int, last: int, rows: int, scratch: Any, space: Space
) -> tuple[int, int]:
    """Compute units `first` up to `last` for packed inputs; arguments and result are those of `dot_chunk`."""
    outputs, width = matrix.outputs, matrix.width
    start = min(first * UNIT, outputs - UNIT)
    tiles = 4 if rows > 2 * UNIT else _tiles_of(rows)
    function = load_int(int_pointer(matrix.packing), PackingField.PRODUCTS_AT)
    store_int(space.arguments, UnpackingField.INPUTS_AT, address_of(space.inputs))
    store_int(space.arguments, UnpackingField.SUMS_AT, address_of(space.sums))
    store_int(space.arguments, UnpackingField.TILES, tiles)
    store_int(space.arguments, UnpackingField.INPUT_STRIDE, width // 2 * UNIT)
    for unit in range(first, last):
        output = min(unit * UNIT, outputs - UNIT)
        _set_rows(matrix, output, 0, width, space.packed, space)
        call_with(function, space.arguments)
        for tile in range(_tiles_of(rows)):
            place = offset(scratch, tile * (UNIT * CHUNK) + output - start)
            transpose_sums(offset(space.sums, tile * UNIT), UNIT * tiles, place, CHUNK)
    return start, min(last * UNIT, outputs) - start


@pointer_kernel
def _tiles_of(rows: int) -> int:
    """Return how many times 16 rows there are."""
    return (rows + UNIT - 1) // UNIT
