"""The inner loop of matrix products: sixteen dot products at once."""

from typing import Any

from llvmlite import ir
from numba import types

from lookahead.backends.cpu.kernels import vectors
from lookahead.backends.cpu.kernels.vectors import FLOAT, FLOATS, INT32, INT64, LANES, loop
from lookahead.jit import compiled


def _tile_maker(rows: int, *, fetched: int = 0) -> Any:
    """Return a function that writes sixteen dot products: of so many rows of weights with rows of inputs.

    Meanwhile so many rows are fetched that are needed later: memory is slow to answer, and a processor asks
    for what comes next by itself only within a page.
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
        """Write out[column · out stride + row], the products of rows `width` long; strides in elements."""

        def generated(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            first_row, row_stride, later, first_input, stride, length, target, target_stride = arguments
            halves = vectors.is_bfloat16(signature.args[0])
            kind = ir.VectorType(ir.IntType(16), 2 * LANES) if halves else FLOATS
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
                    vectors.dot_step(builder, right, left, total, halves=halves)
                    for (left, right), total in zip(pairs, totals, strict=True)
                ]

            step = 2 * LANES if halves else LANES
            totals = loop(builder, INT64(0), length, step, [vectors.splat(0.0)] * LANES, body)
            sums = vectors.sums_of(builder, totals)
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
    """Return the sum of the squares of so many numbers, a multiple of sixteen, as a float32."""

    def generated(_context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        pointer, count = arguments
        halves = vectors.is_bfloat16(signature.args[0])

        def body(index: Any, totals: list[Any]) -> list[Any]:
            loaded = vectors.load_widened(builder, pointer, index, halves=halves)
            return [vectors.fused_multiply_add(builder, loaded, loaded, totals[0])]

        (total,) = loop(builder, INT64(0), count, LANES, [vectors.splat(0.0)], body)
        sums = vectors.sums_of(builder, [total] * LANES)
        return builder.extract_element(sums, INT32(0))

    return types.float32(numbers, types.int64), generated
