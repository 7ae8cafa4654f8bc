"""The inner loop of matrix products: a tile of sixteen dot products at once.

A tile is 16 x 1, 8 x 2 or 4 x 4 rows of weights by rows of inputs. Its sums stay in sixteen vector registers:

    4 x 4        input 0  input 1  input 2  input 3     for each 16 float32 or 32 bfloat16 of the width:
    weight 0       s0       s4       s8       s12           load 4 rows of weights and 4 of inputs
    weight 1       s1       s5       s9       s13           s[k] += weight * input, lane by lane
    weight 2       s2       s6       s10      s14       at the end `lane_sums` adds the 16 lanes of each s[k],
    weight 3       s3       s7       s11      s15       in one order for all tiles

So a dot product has the same bits in every tile.
"""

from typing import Any

from llvmlite import ir
from numba import types

from lookahead.backends.cpu.kernels import vectors
from lookahead.backends.cpu.kernels.vectors import FLOAT, FLOATS, INT32, INT64, LANES, loop
from lookahead.jit import compiled


def _tile_maker(rows: int, *, fetched: int = 0) -> Any:
    """Return a function that writes the products of a tile with `rows` rows of weights.

    The function prefetches `fetched` later rows of weights meanwhile: a processor's own prefetching ends at
    each page.
    """
    columns = LANES // rows

    @compiled
    def tile(
        _typing: Any,
        weights: types.CPointer,
        weight_stride: types.Integer,
        ahead: types.CPointer,
        inputs: types.CPointer,
        input_stride: types.Integer,
        width: types.Integer,
        out: types.CPointer,
        out_stride: types.Integer,
    ) -> Any:
        """Write out[column · out_stride + row], products of rows `width` long; strides are in elements."""

        def generated(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            first_row, row_stride, later, first_input, stride, length, target, target_stride = arguments
            is_bfloat16 = vectors.points_to_bfloat16(signature.args[0])
            kind = ir.VectorType(ir.IntType(16), 2 * LANES) if is_bfloat16 else FLOATS
            weight_rows = [
                builder.gep(first_row, [builder.mul(row_stride, INT64(row))]) for row in range(rows)
            ]
            input_rows = [builder.gep(first_input, [builder.mul(stride, INT64(c))]) for c in range(columns)]
            later_rows = [builder.gep(later, [builder.mul(row_stride, INT64(row))]) for row in range(fetched)]

            def body(index: Any, totals: list[Any]) -> list[Any]:
                loaded = [vectors.load(builder, row, index, kind) for row in weight_rows]
                given = [vectors.load(builder, row, index, kind) for row in input_rows]
                for row in later_rows:
                    vectors.prefetch(builder, row, index)
                pairs = [(left, right) for right in given for left in loaded]
                return [
                    vectors.dot_step(builder, right, left, total, is_bfloat16=is_bfloat16)
                    for (left, right), total in zip(pairs, totals, strict=True)
                ]

            step = 2 * LANES if is_bfloat16 else LANES
            totals = loop(builder, INT64(0), length, step, [vectors.splat(0.0)] * LANES, body)
            sums = vectors.lane_sums(builder, totals)
            for column in range(columns):
                lanes = vectors.ints(list(range(column * rows, (column + 1) * rows)))
                part = builder.shuffle_vector(sums, sums, lanes)
                place = builder.gep(target, [builder.mul(target_stride, INT64(column))])
                builder.store(part, builder.bitcast(place, ir.VectorType(FLOAT, rows).as_pointer()), align=4)
            return context.get_dummy_value()

        whole = types.int64
        return types.void(weights, whole, ahead, inputs, whole, whole, out, whole), generated

    return tile


dots_16_by_1 = _tile_maker(16)
dots_16_by_1_fetching = _tile_maker(16, fetched=16)
dots_8_by_2 = _tile_maker(8)
dots_8_by_2_fetching = _tile_maker(8, fetched=8)
dots_4_by_4 = _tile_maker(4)
dots_4_by_4_fetching_1 = _tile_maker(4, fetched=1)
dots_4_by_4_fetching_2 = _tile_maker(4, fetched=2)
dots_4_by_4_fetching_4 = _tile_maker(4, fetched=4)


@compiled
def sum_of_squares(_typing: Any, numbers: types.CPointer, size: types.Integer) -> Any:
    """Return the sum of the squares of `size` numbers, a multiple of sixteen, as a float32."""

    def generated(_context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        pointer, count = arguments
        is_bfloat16 = vectors.points_to_bfloat16(signature.args[0])

        def body(index: Any, totals: list[Any]) -> list[Any]:
            loaded = vectors.load_widened(builder, pointer, index, is_bfloat16=is_bfloat16)
            return [vectors.fused_multiply_add(builder, loaded, loaded, totals[0])]

        (total,) = loop(builder, INT64(0), count, LANES, [vectors.splat(0.0)], body)
        sums = vectors.lane_sums(builder, [total] * LANES)
        return builder.extract_element(sums, INT32(0))

    return types.float32(numbers, types.int64), generated
