"""Products of few rows of inputs with packed weights, in tile registers.

With few rows, unpacking takes longer than multiplying. Here weights are unpacked row by row, as a tile register
takes them, and the inputs are packed in their place: that saves the shuffles of a panel, 64 for 512 weights.

    weights, unpacked        inputs, packed once          sums
    16 rows x 32 numbers     16 pairs x 16 rows           16 outputs x 16 inputs, transposed at the end

Which of the two matrices is packed changes no bit: see `amx.py`.
"""

from typing import Any

from lookahead.backends.cpu.kernels import amx
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
    call_with_six,
    int_pointer,
    load_int,
    offset,
    pointer_like,
)
from lookahead.jit import pointer_kernel

_MAX_WIDTH = 512
"""Numbers of the width that are unpacked at once, to stay in the first cache."""


@pointer_kernel
def unpack_unit(
    matrix: Matrix, output: int, begin: int, size: int, function: int, target: Any, scales: Any
) -> None:
    """Unpack a part of the width of sixteen rows.

    Args:
        matrix: A packed one.
        output: The first row.
        begin: The first number; it begins a block.
        size: Numbers of the width.
        function: The field of the function that unpacks.
        target: Pointer to float32 [16 · size] at most.
        scales: Pointer to float32 [size].
    """
    packing = int_pointer(matrix.packing)
    row_size, head = load_int(packing, PackingField.ROW_SIZE), load_int(packing, PackingField.INTERLEAVED)
    row, stride = output, row_size
    if head != 0:  # row i of a head's half j is row 2i + j of the head in the file
        inside = output % head
        half = inside // (head // 2)
        row, stride = output - inside + 2 * (inside - half * (head // 2)) + half, 2 * row_size
    skipped = begin // load_int(packing, PackingField.BLOCK) * load_int(packing, PackingField.BLOCK_SIZE)
    address = address_of(matrix.at) + row * row_size + skipped
    ahead = UNIT * stride + (UNIT - 1) * skipped
    call_with_six(
        load_int(packing, function), address, stride, size, address_of(target), address_of(scales), ahead
    )


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
    block = load_int(int_pointer(matrix.packing), PackingField.BLOCK)
    at_once = (_MAX_WIDTH + block - 1) // block * block
    stride = _packed_rows(rows)
    for unit in range(first, last):
        output = min(unit * UNIT, outputs - UNIT)
        begin = 0
        while begin < width:
            size = min(at_once, width - begin)
            unpack_unit(matrix, output, begin, size, PackingField.TILES_AT, space.packed, space.scales)
            _multiply_tiles(matrix, begin, size, rows, space)
            begin += size
        for tile in range(_tiles_of(rows)):
            place = offset(scratch, tile * (UNIT * CHUNK) + output - start)
            transpose_sums(offset(space.sums, tile * UNIT), stride, place, CHUNK)
    return start, min(last * UNIT, outputs) - start


@pointer_kernel
def _tiles_of(rows: int) -> int:
    """Return how many times 16 rows there are."""
    return (rows + UNIT - 1) // UNIT


@pointer_kernel
def _packed_rows(rows: int) -> int:
    """Return how many rows are multiplied: 16, 32 or 64."""
    if rows <= UNIT:
        return UNIT
    return 2 * UNIT if rows <= 2 * UNIT else 4 * UNIT


@pointer_kernel
def _multiply_tiles(matrix: Matrix, begin: int, size: int, rows: int, space: Space) -> None:
    """Multiply the unpacked part of a unit with the packed inputs."""
    inputs, of_tile = offset(space.inputs, begin // 2 * UNIT), matrix.width // 2 * UNIT
    weights = pointer_like(address_of(space.packed), matrix.at)
    sums, adds = space.sums, begin > 0
    stride = _packed_rows(rows)
    if rows <= UNIT:
        amx.multiply_tiled_by_1(weights, amx.STEP, inputs, UNIT, of_tile, size, sums, stride, adds)
    elif rows <= 2 * UNIT:
        amx.multiply_tiled_by_2(weights, amx.STEP, inputs, UNIT, of_tile, size, sums, stride, adds)
    else:
        amx.multiply_tiled_by_4(weights, amx.STEP, inputs, UNIT, of_tile, size, sums, stride, adds)
