"""The inner loops: dot products of a tile of rows, softmax over a block of keys, sums of weighted values."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from lookahead.decoding.fused import vectors
from lookahead.decoding.fused.vectors import FLOAT, FLOATS, INT32, INT64, LANES, compiled

_Body = Callable[[Any, list[Any]], list[Any]]

BLOCK = 64
"""Keys that are weighed at once; blocks begin at multiples of it, counted in places of the text."""
_SECOND_CACHE = 2
"""Where prefetched rows go: the first cache is full of rows that are being worked on."""
HIDDEN = -1e30
"""Score of what is not seen: finite, so that two of them have a difference."""


def _loop(
    builder: ir.IRBuilder, first: Any, end: Any, step: int, initial: list[Any], body: _Body
) -> list[Any]:
    """Build a loop that carries values."""
    before = builder.block
    head, inside, after = (builder.append_basic_block(name) for name in ("head", "body", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(INT64)
    index.add_incoming(first, before)
    carried = [builder.phi(value.type) for value in initial]
    for phi, value in zip(carried, initial, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", index, end), inside, after)
    builder.position_at_end(inside)
    results = body(index, carried)
    last = builder.block
    index.add_incoming(builder.add(index, INT64(step)), last)
    for phi, value in zip(carried, results, strict=True):
        phi.add_incoming(value, last)
    builder.branch(head)
    builder.position_at_end(after)
    return carried


def _prefetch(builder: ir.IRBuilder, pointer: Any, index: Any) -> None:
    byte = ir.IntType(8).as_pointer()
    place = builder.bitcast(builder.gep(pointer, [index]), byte)
    kinds = [place, *(ir.Constant(INT32, number) for number in (0, _SECOND_CACHE, 1))]
    vectors.intrinsic_call(builder, "llvm.prefetch.p0", ir.VoidType(), kinds)


def _tile_maker(rows: int, *, by_slot: bool = False, fetched: int = 0) -> Any:
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
        other: types.CPointer,
        inputs: types.CPointer,
        input_stride: types.Integer,
        width: types.Integer,
        out: types.CPointer,
        out_stride: types.Integer,
    ) -> Any:
        """Write out[column · out stride + row], the products of rows `width` long; strides in elements.

        By slot, row r of the weights is the one that other[r] counts; else they follow each other, and
        `other` is the first row to fetch.
        """

        def generated(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            first_row, row_stride, beside, first_input, stride, length, target, target_stride = arguments
            halves = vectors.is_bfloat16(signature.args[0])
            kind = ir.VectorType(ir.IntType(16), 2 * LANES) if halves else FLOATS
            places: list[Any] = [INT64(row) for row in range(rows)]
            if by_slot:
                places = [builder.load(builder.gep(beside, [place])) for place in places]
            weight_rows = [builder.gep(first_row, [builder.mul(row_stride, place)]) for place in places]
            input_rows = [builder.gep(first_input, [builder.mul(stride, INT64(c))]) for c in range(columns)]
            ahead = [builder.gep(beside, [builder.mul(row_stride, INT64(row))]) for row in range(fetched)]

            def body(index: Any, totals: list[Any]) -> list[Any]:
                loaded = [vectors.load(builder, row, index, kind) for row in weight_rows]
                given = [vectors.load(builder, row, index, kind) for row in input_rows]
                for row in ahead:
                    _prefetch(builder, row, index)
                pairs = [(left, right) for right in given for left in loaded]
                return [
                    vectors.dot_step(builder, right, left, total, halves=halves)
                    for (left, right), total in zip(pairs, totals, strict=True)
                ]

            step = 2 * LANES if halves else LANES
            totals = _loop(builder, INT64(0), length, step, [vectors.splat(0.0)] * LANES, body)
            sums = vectors.sums_of(builder, totals)
            for column in range(columns):
                lanes = vectors.ints(list(range(column * rows, (column + 1) * rows)))
                part = builder.shuffle_vector(sums, sums, lanes)
                place = builder.gep(target, [builder.mul(target_stride, INT64(column))])
                builder.store(part, builder.bitcast(place, ir.VectorType(FLOAT, rows).as_pointer()), align=4)
            return context.get_dummy_value()

        whole = types.int64
        return types.void(weights, whole, other, inputs, whole, whole, out, whole), generated

    return tile


dots_16_by_1 = _tile_maker(16)
dots_16_by_1_fetching = _tile_maker(16, fetched=16)
dots_8_by_2 = _tile_maker(8)
dots_8_by_2_fetching = _tile_maker(8, fetched=8)
dots_4_by_4 = _tile_maker(4)
dots_4_by_4_fetching_1 = _tile_maker(4, fetched=1)
dots_4_by_4_fetching_2 = _tile_maker(4, fetched=2)
dots_4_by_4_fetching_4 = _tile_maker(4, fetched=4)
dots_of_slots = _tile_maker(16, by_slot=True)


@compiled
def soften_block(
    _typing: Any,
    scores: types.CPointer,
    first: types.Integer,
    end: types.Integer,
    scale: types.Float,
    state: types.CPointer,
) -> Any:
    """Turn the scores of a block's keys from `first` up to `end` into weights; the others' become 0.

    `state` holds the largest score so far and the sum of weights relative to it, and is brought up to date.

    Returns:
        The factor by which what was weighed before is to be multiplied.
    """

    def generated(_context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        row, first_key, end_key, factor, kept = arguments
        hidden = vectors.splat(HIDDEN)
        bounds = [_splat_of(builder, builder.trunc(bound, INT32)) for bound in (first_key, end_key)]
        scales = _splat_of(builder, factor)
        seen, scored = [], []
        for start in range(0, BLOCK, LANES):
            keys = vectors.ints(list(range(start, start + LANES)))
            sees = builder.and_(
                builder.icmp_signed(">=", keys, bounds[0]), builder.icmp_signed("<", keys, bounds[1])
            )
            loaded = vectors.load(builder, row, INT64(start), FLOATS)
            seen.append(sees)
            scored.append(builder.select(sees, builder.fmul(loaded, scales), hidden))
        largest = scored[0]
        for others in scored[1:]:
            largest = vectors.intrinsic_call(builder, "llvm.maxnum.v16f32", FLOATS, [largest, others])
        top = vectors.intrinsic_call(builder, "llvm.vector.reduce.fmax.v16f32", FLOAT, [largest])
        before = builder.load(kept)
        after = vectors.intrinsic_call(builder, "llvm.maxnum.f32", FLOAT, [before, top])
        tops = _splat_of(builder, after)
        total = vectors.splat(0.0)
        for start, sees, score in zip(range(0, BLOCK, LANES), seen, scored, strict=True):
            weight = vectors.exponential(builder, builder.fsub(score, tops))
            weight = builder.select(sees, weight, vectors.splat(0.0))
            place = builder.bitcast(builder.gep(row, [INT64(start)]), FLOATS.as_pointer())
            builder.store(weight, place, align=4)
            total = builder.fadd(total, weight)
        sums = vectors.sums_of(builder, [total] * LANES)
        decay = vectors.exponential(builder, builder.fsub(before, after))
        sum_place = builder.gep(kept, [INT64(1)])
        added = builder.extract_element(sums, INT32(0))
        builder.store(vectors.fused_multiply_add(builder, builder.load(sum_place), decay, added), sum_place)
        builder.store(after, kept)
        return decay

    whole = types.int64
    return types.float32(scores, whole, whole, types.float32, state), generated


def _splat_of(builder: ir.IRBuilder, value: Any) -> Any:
    kind = ir.VectorType(value.type, LANES)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, INT32(0))
    return builder.shuffle_vector(first, first, vectors.ints([0] * LANES))


def _weigher_maker(queries: int, parts: int, *, by_slot: bool) -> Any:
    """Return a function that adds weighted values, for some queries and 16 · parts numbers of each value."""

    @compiled
    def weigh(
        _typing: Any,
        weights: types.CPointer,
        values: types.CPointer,
        value_stride: types.Integer,
        slots: types.CPointer,
        first: types.Integer,
        end: types.Integer,
        decays: types.CPointer,
        totals: types.CPointer,
        total_stride: types.Integer,
    ) -> Any:
        """Multiply totals by their query's decay and add the values of keys `first` to `end`, weighted.

        Weights of a query are a block apart, its totals a stride. By slot, key k is the one that slots[k]
        counts; else they follow each other.
        """

        def generated(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            weight, value, stride, slot, first_key, end_key, decay, total, apart = arguments
            halves = vectors.is_bfloat16(signature.args[1])
            places = [
                builder.gep(total, [builder.add(builder.mul(apart, INT64(query)), INT64(LANES * part))])
                for query in range(queries)
                for part in range(parts)
            ]
            initial = []
            for at, place in enumerate(places):
                kept = builder.load(builder.gep(decay, [INT64(at // parts)]))
                held = builder.load(builder.bitcast(place, FLOATS.as_pointer()), align=4)
                initial.append(builder.fmul(held, _splat_of(builder, kept)))

            def body(key: Any, sums: list[Any]) -> list[Any]:
                place = builder.load(builder.gep(slot, [key])) if by_slot else key
                row = builder.gep(value, [builder.mul(place, stride)])
                shown = [
                    vectors.load_widened(builder, row, INT64(LANES * part), halves=halves)
                    for part in range(parts)
                ]
                results = []
                for query in range(queries):
                    at = builder.add(key, INT64(query * BLOCK))
                    share = _splat_of(builder, builder.load(builder.gep(weight, [at])))
                    for part in range(parts):
                        summed = sums[query * parts + part]
                        results.append(vectors.fused_multiply_add(builder, share, shown[part], summed))
                return results

            sums = _loop(builder, first_key, end_key, 1, initial, body)
            for place, held in zip(places, sums, strict=True):
                builder.store(held, builder.bitcast(place, FLOATS.as_pointer()), align=4)
            return context.get_dummy_value()

        whole = types.int64
        return types.void(weights, values, whole, slots, whole, whole, decays, totals, whole), generated

    return weigh


weigh_4 = _weigher_maker(4, 2, by_slot=False)
weigh_1 = _weigher_maker(1, 2, by_slot=False)
weigh_slots = _weigher_maker(1, 2, by_slot=True)


@compiled
def sum_of_squares(_typing: Any, numbers: types.CPointer, size: types.Integer) -> Any:
    """Return the sum of the squares of so many numbers, a multiple of sixteen, as a float32."""

    def generated(_context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        pointer, count = arguments
        halves = vectors.is_bfloat16(signature.args[0])

        def body(index: Any, totals: list[Any]) -> list[Any]:
            loaded = vectors.load_widened(builder, pointer, index, halves=halves)
            return [vectors.fused_multiply_add(builder, loaded, loaded, totals[0])]

        (total,) = _loop(builder, INT64(0), count, LANES, [vectors.splat(0.0)], body)
        sums = vectors.sums_of(builder, [total] * LANES)
        return builder.extract_element(sums, INT32(0))

    return types.float32(numbers, types.int64), generated
