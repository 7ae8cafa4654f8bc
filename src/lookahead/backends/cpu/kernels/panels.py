"""Panels: weights packed for products whose lanes are outputs, and these products in vectors.

A word is what one lane of a vector multiplies: one float32 or two bfloat16. A panel holds a unit, sixteen
rows of weights, so that a vector has the same word of all sixteen:

    weights, as they lie              panel                              product of one row of inputs
    w0:  a0 a1 a2 ...                 a0 b0 c0 ... p0    16 lanes        sums[0:16]  = a0 b0 ... p0 * x0
    w1:  b0 b1 b2 ...                 a1 b1 c1 ... p1                    sums[0:16] += a1 b1 ... p1 * x1
    ...                               a2 b2 c2 ... p2                    sums[0:16] += a2 b2 ... p2 * x2
    w15: p0 p1 p2 ...                 ...                                ...

A sum is taken in the order of the width, word by word. So it has the same bits however many rows of inputs
there are and wherever the width is divided into blocks.
"""

from itertools import product
from typing import Any

from llvmlite import ir
from numba import types

from lookahead.backends.cpu.kernels import vectors
from lookahead.backends.cpu.kernels.vectors import FLOATS, INT32, INT64, INTS, LANES, loop
from lookahead.jit import compiled

MANY, FEW = (8, 4) if vectors.has_feature("avx512f") else (2, 2)
"""Rows of inputs that are multiplied at once: their sums with two units stay in vector registers."""


def _words_of(signature: Any) -> int:
    """Return how many numbers a word of the first argument's type holds."""
    return 2 if vectors.points_to_bfloat16(signature.args[0]) else 1


@compiled
def pack_weights(
    _typing: Any,
    weights: types.CPointer,
    stride: types.Integer,
    width: types.Integer,
    packed: types.CPointer,
    ahead: types.Integer,
) -> Any:
    """Pack `width` numbers of 16 rows of weights: words [words, 16].

    `width` is a multiple of 32, and `stride` counts elements between two rows. The rows that follow `ahead`
    elements later are prefetched meanwhile: a processor's own prefetching ends at each page.
    """

    def generated(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        rows, row_stride, size, target, later = arguments
        numbers = LANES * _words_of(signature)
        pointers = [builder.gep(rows, [builder.mul(row_stride, INT64(lane))]) for lane in range(LANES)]
        words = builder.bitcast(target, INT32.as_pointer())

        def body(index: Any, _: list[Any]) -> list[Any]:
            loaded = [vectors.load(builder, pointer, index, INTS) for pointer in pointers]
            for pointer in pointers:
                vectors.prefetch(builder, pointer, builder.add(index, later))
            first = builder.mul(index, INT64(LANES * LANES // numbers))
            for at, vector in enumerate(vectors.transposed(builder, loaded)):
                vectors.store(builder, vector, words, builder.add(first, INT64(at * LANES)))
            return []

        loop(builder, INT64(0), size, numbers, [], body)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(weights, whole, whole, packed, whole), generated


@compiled
def transpose_sums(
    _typing: Any,
    sums: types.CPointer,
    sums_stride: types.Integer,
    out: types.CPointer,
    out_stride: types.Integer,
) -> Any:
    """Write float32 out[column · out_stride + row] of sixteen rows and columns of sums."""

    def generated(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        given, stride, target, target_stride = arguments
        places = [builder.mul(stride, INT64(row)) for row in range(LANES)]
        rows = [vectors.load(builder, given, place, INTS) for place in places]
        for column, vector in enumerate(vectors.transposed(builder, rows)):
            vectors.store(builder, vector, target, builder.mul(target_stride, INT64(column)))
        return context.get_dummy_value()

    return types.void(sums, types.int64, out, types.int64), generated


def _multiplier_maker(rows: int, units: int) -> Any:
    """Return a function that multiplies rows of inputs with the panels of units."""

    @compiled
    def multiply(
        _typing: Any,
        inputs: types.CPointer,
        input_stride: types.Integer,
        packed: types.CPointer,
        unit_stride: types.Integer,
        width: types.Integer,
        out: types.CPointer,
        out_stride: types.Integer,
        adds: types.Boolean,
    ) -> Any:
        """Write float32 out[row · out_stride + output], or add to it if `adds`.

        `unit_stride` counts words between two panels, the other strides elements.
        """

        def generated(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            given, stride, panel, panel_stride, size, target, target_stride, is_added = arguments
            is_bfloat16 = vectors.points_to_bfloat16(signature.args[0])
            words = builder.sdiv(size, INT64(_words_of(signature)))
            input_rows = [
                builder.bitcast(builder.gep(given, [builder.mul(stride, INT64(row))]), INT32.as_pointer())
                for row in range(rows)
            ]
            panels = [builder.mul(panel_stride, INT64(unit)) for unit in range(units)]
            before, places, zero = [], [], vectors.splat(0.0)
            for row, unit in product(range(rows), range(units)):
                places.append(builder.add(builder.mul(target_stride, INT64(row)), INT64(LANES * unit)))
                held = vectors.load(builder, target, places[-1], FLOATS)
                before.append(builder.select(is_added, held, zero))

            def body(word: Any, sums: list[Any]) -> list[Any]:
                at = builder.mul(word, INT64(LANES))
                weights = [vectors.load(builder, panel, builder.add(at, start), INTS) for start in panels]
                added = []
                for row, pointer in enumerate(input_rows):
                    number = vectors.splat_of(builder, builder.load(builder.gep(pointer, [word]), align=2))
                    for unit, weight in enumerate(weights):
                        total = sums[row * units + unit]
                        added.append(
                            vectors.dot_words(builder, number, weight, total, is_bfloat16=is_bfloat16)
                        )
                return added

            for total, place in zip(loop(builder, INT64(0), words, 1, before, body), places, strict=True):
                vectors.store(builder, total, target, place)
            return context.get_dummy_value()

        whole = types.int64
        return types.void(inputs, whole, packed, whole, whole, out, whole, types.boolean), generated

    return multiply


multiply_1_by_1 = _multiplier_maker(1, 1)
multiply_1_by_2 = _multiplier_maker(1, 2)
multiply_few_by_1 = _multiplier_maker(FEW, 1)
multiply_few_by_2 = _multiplier_maker(FEW, 2)
multiply_many_by_1 = _multiplier_maker(MANY, 1)
multiply_many_by_2 = _multiplier_maker(MANY, 2)
