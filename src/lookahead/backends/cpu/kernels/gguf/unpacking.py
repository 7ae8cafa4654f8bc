"""Weights of a GGUF file, unpacked: one compiled function per format and for each use.

A product calls such a function by its address, where it would otherwise pack weights that lie in memory as
numbers. So a model compiles the code of its own formats only, and the step's code does not grow. A function's
argument is the address of a table, see `UnpackingField`.

    panels      sixteen rows as `panels.pack_weights` would pack them, words [words, 16 rows], of float32 or
                of two bfloat16, for products in vectors and in tiles
    products    with few rows of inputs, in tile registers. There, unpacking takes longer than multiplying.
                Weights are unpacked row by row, as a tile register takes them, and the inputs are packed in
                their place: that saves the shuffles of a panel. A piece of 32 numbers is multiplied while
                later ones are unpacked.

                weights, unpacked        inputs, packed once          sums
                16 rows x 32 numbers     16 pairs x 16 rows           16 outputs x 16 inputs

Which of two matrices is packed changes no bit of their products: see `amx.py`.
"""

from enum import IntEnum
from functools import cache
from typing import Any

from llvmlite import ir
from numba import types

from lookahead.backends.cpu.kernels import amx, vectors
from lookahead.backends.cpu.kernels.gguf.blocks import (
    PIECE,
    SCALES_OF_PIECE,
    Rows,
    scales_of_row,
    weights_of,
    write_scales,
)
from lookahead.backends.cpu.kernels.gguf.formats import Packing
from lookahead.backends.cpu.kernels.gguf.tables import has_tables, words_by_tables
from lookahead.backends.cpu.kernels.pointers import address_of
from lookahead.backends.cpu.kernels.vectors import INT64, INTS, LANES, loop
from lookahead.jit import compiled, log_if_slow, shared_kernel

_LINE = 64
"""Bytes of a cache line."""
_OF_TILE = LANES * LANES
"""Words in a tile register."""
TILES_OF_TARGET, _LAG = 4, 2
"""Tiles that are in memory between unpacking and multiplying, and how many pieces later they are multiplied:
a tile register waits until what it loads has left the processor's store buffer."""


class Use(IntEnum):
    """What weights are unpacked for; see above."""

    FLOAT_PANELS = 0
    BFLOAT16_PANELS = 1
    PRODUCTS = 2


class UnpackingField(IntEnum):
    """The arguments of a function that unpacks, int64: `_AT` is an address."""

    WEIGHTS_AT = 0  # of the first row's first block
    STRIDE = 1  # bytes between two rows
    WIDTH = 2  # numbers of each row that are unpacked, whole blocks
    TARGET_AT = 3  # panels of 16 · width numbers; for products `TILES_OF_TARGET` tiles
    SCALES_AT = 4  # float32 [width], for the scales
    AHEAD = 5  # bytes from the first block to what is needed next, which is prefetched meanwhile
    # For products alone: panels of up to 64 inputs, words [tiles, width / 2, 16 inputs]; float32 sums
    # [16 outputs, 16 · tiles], tiles being 1, 2 or 4; and the words of a panel.
    INPUTS_AT = 6
    SUMS_AT = 7
    TILES = 8
    INPUT_STRIDE = 9


UNPACKING_FIELDS = len(UnpackingField)


@compiled
def _unpack(_typing: Any, packing: types.Integer, use: types.Integer, arguments: types.Integer) -> Any:
    """Unpack weights as a table of arguments says; the format and the use are constants."""
    if not isinstance(packing, types.IntegerLiteral) or not isinstance(use, types.IntegerLiteral):
        return None  # numba asks again, with constants
    chosen, wanted = Packing(packing.literal_value), Use(use.literal_value)

    def generated(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        table = builder.inttoptr(values[2], INT64.as_pointer())
        arguments = {field: builder.load(builder.gep(table, [INT64(field)])) for field in UnpackingField}
        if wanted is Use.PRODUCTS:
            _build_products(builder, chosen, arguments)
        else:
            _build_panels(builder, chosen, wanted, arguments)
        return context.get_dummy_value()

    return types.void(packing, use, types.int64), generated


_Arguments = dict[UnpackingField, Any]


class _Weights:
    """Builds the unpacking of pieces; its constructor builds the writing of all scales."""

    def __init__(self, builder: ir.IRBuilder, packing: Packing, arguments: _Arguments) -> None:
        self._builder, self._packing = builder, packing
        self._ahead = arguments[UnpackingField.AHEAD]
        self._base = builder.inttoptr(arguments[UnpackingField.WEIGHTS_AT], ir.IntType(8).as_pointer())
        rows = Rows(self._base, arguments[UnpackingField.STRIDE])
        self._rows = rows.pointers(builder)
        self._scales = builder.inttoptr(arguments[UnpackingField.SCALES_AT], vectors.FLOAT.as_pointer())
        numbers, width = packing.block.numbers, arguments[UnpackingField.WIDTH]
        self.pieces = builder.sdiv(width, INT64(PIECE))

        def body(block: Any, _: list[Any]) -> list[Any]:
            at = builder.mul(block, INT64(numbers // PIECE * SCALES_OF_PIECE))
            write_scales(builder, packing, rows, block, builder.gep(self._scales, [at]))
            return []

        loop(builder, INT64(0), builder.sdiv(width, INT64(numbers)), 1, [], body)

    def prefetch(self, piece: Any) -> None:
        """Prefetch a piece's share of what is needed next."""
        builder, block = self._builder, self._packing.block
        size = LANES * block.size * PIECE // block.numbers
        start = builder.add(self._ahead, builder.mul(piece, INT64(size)))
        for line in range(-(-size // _LINE)):
            vectors.prefetch(builder, self._base, builder.add(start, INT64(_LINE * line)))

    def words(self, piece: Any, *, is_bfloat16: bool) -> list[list[Any]]:
        """Return a piece of sixteen rows: sixteen vectors of words of two bfloat16, or twice of float32."""
        builder, packing = self._builder, self._packing
        scales = builder.gep(self._scales, [builder.mul(piece, INT64(SCALES_OF_PIECE))])
        if is_bfloat16 and has_tables(packing):
            return [words_by_tables(builder, packing, self._rows, piece, scales)]
        pairs = [
            weights_of(builder, packing, row, piece, scales_of_row(builder, packing, scales, lane))
            for lane, row in enumerate(self._rows)
        ]
        if is_bfloat16:
            return [[vectors.bfloat16_words(builder, low, high) for low, high in pairs]]
        return [[builder.bitcast(half, INTS) for half in halves] for halves in zip(*pairs, strict=True)]


def _build_panels(builder: ir.IRBuilder, packing: Packing, use: Use, arguments: _Arguments) -> None:
    weights = _Weights(builder, packing, arguments)
    target = builder.inttoptr(arguments[UnpackingField.TARGET_AT], vectors.INT32.as_pointer())

    def body(piece: Any, _: list[Any]) -> list[Any]:
        weights.prefetch(piece)
        words = weights.words(piece, is_bfloat16=use is Use.BFLOAT16_PANELS)
        columns = [column for rows in words for column in vectors.transposed(builder, rows)]
        start = builder.mul(piece, INT64(LANES * len(columns)))
        for index, column in enumerate(columns):
            vectors.store(builder, column, target, builder.add(start, INT64(LANES * index)))
        return []

    loop(builder, INT64(0), weights.pieces, 1, [], body)


def _build_products(builder: ir.IRBuilder, packing: Packing, arguments: _Arguments) -> None:
    """Build products in tiles: registers 0 to 3 hold sums, 4 and 5 weights, 6 and 7 inputs."""
    weights = _Weights(builder, packing, arguments)
    kind = vectors.INT32.as_pointer()
    target = builder.inttoptr(arguments[UnpackingField.TARGET_AT], kind)
    inputs = amx.TileMatrix(builder.inttoptr(arguments[UnpackingField.INPUTS_AT], kind), INT64(LANES), 4)
    tiles = amx.TileMatrix(target, INT64(LANES), 4)
    count, input_stride = arguments[UnpackingField.TILES], arguments[UnpackingField.INPUT_STRIDE]
    sums_at = builder.inttoptr(arguments[UnpackingField.SUMS_AT], kind)
    sums = amx.TileMatrix(sums_at, builder.mul(count, INT64(LANES)), 4)

    def tile_of(piece: Any) -> Any:
        return builder.mul(builder.and_(piece, INT64(TILES_OF_TARGET - 1)), INT64(_OF_TILE))

    def multiply(piece: Any) -> None:
        tiles.load(builder, 4, tile_of(piece))
        for tile in _each_tile(builder, count):
            start = builder.add(builder.mul(piece, INT64(_OF_TILE)), builder.mul(input_stride, INT64(tile)))
            register = inputs.load(builder, 6 + tile % 2, start)
            amx.tile_call(builder, "tdpbf16ps", *map(amx.tile_register, (tile, 4, register)))

    def multiply_if_unpacked(piece: Any) -> None:
        with builder.if_then(builder.icmp_signed(">=", piece, INT64(0)), likely=True):
            multiply(piece)

    def body(piece: Any, _: list[Any]) -> list[Any]:
        multiply_if_unpacked(builder.sub(piece, INT64(_LAG)))
        weights.prefetch(piece)
        (rows,) = weights.words(piece, is_bfloat16=True)
        for index, row in enumerate(rows):
            vectors.store(builder, row, target, builder.add(tile_of(piece), INT64(LANES * index)))
        return []

    for tile in range(4):
        amx.tile_call(builder, "tilezero", amx.tile_register(tile))
    loop(builder, INT64(0), weights.pieces, 1, [], body)
    for lag in range(_LAG, 0, -1):
        multiply_if_unpacked(builder.sub(weights.pieces, INT64(lag)))
    for tile in _each_tile(builder, count):
        sums.store(builder, tile, INT64(LANES * tile))


def _each_tile(builder: ir.IRBuilder, count: Any) -> Any:
    """Yield the tiles of inputs, 1, 2 or 4; what is built for a tile runs if there is that many."""
    yield 0
    with builder.if_then(builder.icmp_signed(">", count, INT64(1))):
        yield 1
        with builder.if_then(builder.icmp_signed(">", count, INT64(2))):
            yield 2
            yield 3


@cache
def unpacking_address(packing: Packing, use: Use) -> int:
    """Return the address of a C function that unpacks weights; its argument is a table's address.

    The first call compiles it, in about a second, once per installation.
    """
    with log_if_slow():
        return int(unpacker(int(packing), int(use)).address)


def unpacker(packing: int, use: int) -> Any:
    """Return the compiled function of a format and a use."""

    def unpack(address: Any) -> None:
        _unpack(packing, use, address_of(address))

    unpack.__qualname__ = f"unpack_{Packing(packing).name}_for_{Use(use).name}".lower()
    return shared_kernel(unpack)
