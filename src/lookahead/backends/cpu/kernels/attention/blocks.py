"""One block of attention: pack keys and values, score queries, take the softmax, add weighted values.

A word is what one lane of a vector holds: one float32 or two bfloat16. The lanes of packed keys are keys, so
that a score needs no sum across lanes; the lanes of packed values are numbers of a value.

    keys in the cache     pack_keys: [words of a key, BLOCK]    pack_values: bfloat16 [BLOCK / 2, width]

    key 0:  w0 w1 ...     w0 of keys  0  1  2 ... 63            values 0|1:  n0|n0  n1|n1  n2|n2 ...
    key 1:  w0 w1 ...     w1 of keys  0  1  2 ... 63            values 2|3:  n0|n0  n1|n1  n2|n2 ...
    key 2:  w0 w1 ...     w2 of keys  0  1  2 ... 63            float32 [BLOCK, width], as in the cache

    score   for each word w: scores[0:64] += query[w] * packed[w, 0:64]      four vectors of 16 lanes
    total   for each key k:  total[0:32]  += weight[k] * packed[k, 0:32]     two vectors, or four
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

from llvmlite import ir
from numba import types

from lookahead.backends.cpu.kernels import vectors
from lookahead.backends.cpu.kernels.vectors import FLOAT, FLOATS, INT32, INT64, INTS, LANES, SHORTS, loop
from lookahead.jit import compiled, intrinsic_call

BLOCK = 64
"""Places of a block; blocks begin at its multiples, indices in places of the text."""
QUERIES = 4
"""Queries that the `_all` functions work on together."""
MASKED_SCORE = -3.4028234663852886e38
"""Score of a key that a query does not see: the lowest float, so that differences of two are numbers."""
_PARTS = BLOCK // LANES


def row_of(
    builder: ir.IRBuilder, source: Any, stride: Any, slots: Any, key: Any, bounds: tuple[Any, Any]
) -> Any:
    """Return a pointer to a key's row; keys outside the bounds are replaced by the nearest one inside."""
    first, end = bounds
    key = builder.select(builder.icmp_signed("<", key, first), first, key)
    last = builder.sub(end, INT64(1))
    key = builder.select(builder.icmp_signed(">", key, last), last, key)
    return builder.gep(source, [builder.mul(builder.load(builder.gep(slots, [key])), stride)])


def mask_of(builder: ir.IRBuilder, key: Any, bounds: tuple[Any, Any]) -> Any:
    """Return a word, all bits set for a key inside the bounds, else none."""
    first, end = bounds
    is_inside = builder.and_(builder.icmp_signed(">=", key, first), builder.icmp_signed("<", key, end))
    return builder.sext(is_inside, INT32)


@compiled
def pack_keys(
    _typing: Any,
    source: types.CPointer,
    stride: types.Integer,
    slots: types.CPointer,
    first: types.Integer,
    end: types.Integer,
    packed: types.CPointer,
) -> Any:
    """Pack the keys from `first` up to `end` of a block, at least one; key k is in slot slots[k].

    The width, `stride`, is a multiple of 32. Other keys of `packed` are undefined.
    """

    def generated(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        rows, width, places, first_key, end_key, target = arguments
        is_bfloat16 = vectors.points_to_bfloat16(signature.args[0])
        bounds = (first_key, end_key)
        words = builder.sdiv(width, INT64(2)) if is_bfloat16 else width
        next_block = builder.mul(words, INT64(BLOCK))

        def of_group(group: Any, _: list[Any]) -> list[Any]:
            pointers = [
                builder.bitcast(
                    row_of(builder, rows, width, places, builder.add(group, INT64(lane)), bounds),
                    INT32.as_pointer(),
                )
                for lane in range(LANES)
            ]

            def of_words(word: Any, _: list[Any]) -> list[Any]:
                loaded = [vectors.load(builder, pointer, word, INTS) for pointer in pointers]
                for pointer in pointers:
                    vectors.prefetch(builder, pointer, builder.add(word, next_block))
                for at, vector in enumerate(vectors.transposed(builder, loaded)):
                    place = builder.add(builder.mul(builder.add(word, INT64(at)), INT64(BLOCK)), group)
                    vectors.store(builder, vector, target, place)
                return []

            loop(builder, INT64(0), words, LANES, [], of_words)
            return []

        begin = builder.and_(first_key, INT64(-LANES))
        loop(builder, begin, end_key, LANES, [], of_group)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(source, whole, slots, whole, whole, packed), generated


def _clear_words(builder: ir.IRBuilder, target: Any, index: Any, _: list[Any]) -> list[Any]:
    """Set sixteen words to 0, as the body of a loop."""
    vectors.store(builder, vectors.ints([0] * LANES), target, index)
    return []


@compiled
def pack_values(
    _typing: Any,
    source: types.CPointer,
    stride: types.Integer,
    slots: types.CPointer,
    first: types.Integer,
    end: types.Integer,
    packed: types.CPointer,
) -> Any:
    """Pack the values of the keys from `first` up to `end` of a block, at least one; the others become 0."""

    def generated(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        rows, width, places, first_key, end_key, target = arguments
        is_bfloat16 = vectors.points_to_bfloat16(signature.args[0])
        keys = 2 if is_bfloat16 else 1
        bounds = (first_key, end_key)
        next_block = builder.mul(width, INT64(BLOCK))

        def of_word(key: Any, _: list[Any]) -> list[Any]:
            pair = [
                row_of(builder, rows, width, places, builder.add(key, INT64(at)), bounds)
                for at in range(keys)
            ]
            masks = [
                vectors.splat_of(builder, mask_of(builder, builder.add(key, INT64(at)), bounds))
                for at in range(keys)
            ]
            row = builder.mul(builder.sdiv(key, INT64(keys)), width)

            def of_numbers(index: Any, _: list[Any]) -> list[Any]:
                if is_bfloat16:
                    low, high = (
                        builder.and_(builder.zext(vectors.load(builder, one, index, SHORTS), INTS), mask)
                        for one, mask in zip(pair, masks, strict=True)
                    )
                    word = builder.or_(low, builder.shl(high, vectors.ints([16] * LANES)))
                else:
                    word = vectors.load(builder, builder.bitcast(pair[0], INT32.as_pointer()), index, INTS)
                vectors.store(builder, word, target, builder.add(row, index))
                for one in pair:
                    vectors.prefetch(builder, one, builder.add(index, next_block))
                return []

            loop(builder, INT64(0), width, LANES, [], of_numbers)
            return []

        clear = partial(_clear_words, builder, target)

        def place_of(key: Any) -> Any:
            return builder.mul(builder.sdiv(key, INT64(keys)), width)

        begin = builder.and_(first_key, INT64(-keys))
        after = builder.and_(builder.add(end_key, INT64(keys - 1)), INT64(-keys))
        loop(builder, INT64(0), place_of(begin), LANES, [], clear)
        loop(builder, begin, end_key, keys, [], of_word)
        loop(builder, place_of(after), place_of(INT64(BLOCK)), LANES, [], clear)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(source, whole, slots, whole, whole, packed), generated


def _scorer_maker(queries: int) -> Any:
    @compiled
    def score(
        _typing: Any,
        queries_at: types.CPointer,
        width: types.Integer,
        packed: types.CPointer,
        scores: types.CPointer,
    ) -> Any:
        """Write a block's scores, [queries, BLOCK], of queries [queries, width]."""

        def generated(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            first, size, keys, target = arguments
            is_bfloat16 = vectors.points_to_bfloat16(signature.args[0])
            rows = []
            for query in range(queries):
                row = builder.gep(first, [builder.mul(size, INT64(query))])
                rows.append(builder.bitcast(row, INT32.as_pointer()))

            def body(word: Any, totals: list[Any]) -> list[Any]:
                at = builder.mul(word, INT64(BLOCK))
                loaded_keys = [
                    vectors.load(builder, keys, builder.add(at, INT64(part * LANES)), INTS)
                    for part in range(_PARTS)
                ]
                results = []
                for query, row in enumerate(rows):
                    query_word = vectors.splat_of(builder, builder.load(builder.gep(row, [word]), align=2))
                    for part in range(_PARTS):
                        total = totals[query * _PARTS + part]
                        results.append(
                            vectors.dot_words(
                                builder, query_word, loaded_keys[part], total, is_bfloat16=is_bfloat16
                            )
                        )
                return results

            words = builder.sdiv(size, INT64(2)) if is_bfloat16 else size
            sums = loop(builder, INT64(0), words, 1, [vectors.splat(0.0)] * (queries * _PARTS), body)
            for at, total in enumerate(sums):
                vectors.store(builder, total, target, INT64(at * LANES))
            return context.get_dummy_value()

        return types.void(queries_at, types.int64, packed, scores), generated

    return score


score_one = _scorer_maker(1)
score_all = _scorer_maker(QUERIES)


@compiled
def softmax_block(
    _typing: Any,
    scores: types.CPointer,
    first: types.Integer,
    end: types.Integer,
    scale: types.Float,
    state: types.CPointer,
    like: types.CPointer,
) -> Any:
    """Replace the scores of a block's keys from `first` up to `end` by weights, those of other keys by 0.

    The weights are stored in the scores' memory, in the type that `like` points to. `state` holds the largest
    score so far and the sum of weights relative to it; both are updated. A NaN or an infinite largest score
    makes both sums NaN, as a softmax does.

    Returns:
        The decay: the factor for the totals of earlier blocks.
    """

    def generated(_context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        row, first_key, end_key, factor, state_at, _ = arguments
        is_bfloat16 = vectors.points_to_bfloat16(signature.args[5])
        masked = vectors.splat(MASKED_SCORE)
        bounds = [vectors.splat_of(builder, builder.trunc(bound, INT32)) for bound in (first_key, end_key)]
        scales = vectors.splat_of(builder, factor)
        seen, scored = [], []
        for start in range(0, BLOCK, LANES):
            keys = vectors.ints(list(range(start, start + LANES)))
            sees = builder.and_(
                builder.icmp_signed(">=", keys, bounds[0]), builder.icmp_signed("<", keys, bounds[1])
            )
            loaded = vectors.load(builder, row, INT64(start), FLOATS)
            seen.append(sees)
            scored.append(builder.select(sees, builder.fmul(loaded, scales), masked))
        largest = scored[0]
        for others in scored[1:]:
            largest = vectors.larger(builder, largest, others)
        top = intrinsic_call(builder, "llvm.vector.reduce.fmax.v16f32", FLOAT, [largest])
        before = builder.load(state_at)
        after = vectors.larger(builder, before, top)
        tops = vectors.splat_of(builder, after)
        total = vectors.splat(0.0)
        for start, sees, score in zip(range(0, BLOCK, LANES), seen, scored, strict=True):
            weight = vectors.exponential(builder, builder.fsub(score, tops), may_be_positive=False)
            weight = builder.select(sees, weight, vectors.splat(0.0))
            vectors.store_rounded(builder, weight, row, INT64(start), is_bfloat16=is_bfloat16)
            total = builder.fadd(total, weight)
        sums = vectors.lane_sums(builder, [total] * LANES)
        decay = vectors.exponential(builder, builder.fsub(before, after), may_be_positive=False)
        sum_place = builder.gep(state_at, [INT64(1)])
        added = builder.extract_element(sums, INT32(0))
        builder.store(vectors.fused_multiply_add(builder, builder.load(sum_place), decay, added), sum_place)
        builder.store(after, state_at)
        return decay

    whole = types.int64
    return types.float32(scores, whole, whole, types.float32, state, like), generated


def _decayed_totals(
    builder: ir.IRBuilder, totals: tuple[Any, Any], decays: Any, *, queries: int, parts: int
) -> tuple[list[tuple[Any, Any]], list[Any]]:
    """Return where each query's totals are, as pointers and offsets, and their vectors times its decay.

    `totals` is their memory and the elements between two of them.
    """
    memory, stride = totals
    places, decayed = [], []
    for query in range(queries):
        row = builder.gep(memory, [builder.mul(stride, INT64(query))])
        factor = vectors.splat_of(builder, builder.load(builder.gep(decays, [INT64(query)])))
        for part in range(parts):
            places.append((row, INT64(LANES * part)))
            decayed.append(builder.fmul(vectors.load(builder, *places[-1], FLOATS), factor))
    return places, decayed


def _add_weighted(
    builder: ir.IRBuilder, sums: list[Any], weights: Iterable[Any], values: list[Any], *, is_bfloat16: bool
) -> list[Any]:
    """Return the sums [queries · parts], with the word of weights at each pointer times the values added."""
    added = []
    for query, weight in enumerate(weights):
        share = vectors.splat_of(builder, builder.load(weight))
        for part, value in enumerate(values):
            total = sums[query * len(values) + part]
            added.append(vectors.dot_words(builder, share, value, total, is_bfloat16=is_bfloat16))
    return added


def _accumulator_maker(queries: int, parts: int) -> Any:
    """Return a function that adds weighted values, for some queries and 16 · parts numbers of each value."""

    @compiled
    def accumulate_values(
        _typing: Any,
        weights: types.CPointer,
        packed: types.CPointer,
        width: types.Integer,
        first: types.Integer,
        end: types.Integer,
        decays: types.CPointer,
        totals: types.CPointer,
        stride: types.Integer,
        like: types.CPointer,
    ) -> Any:
        """Multiply each query's totals by its decay and add the weighted values of keys `first` up to `end`.

        A row of weights takes the memory of [BLOCK] float32 in both types; the totals of query q begin at
        element q · stride.
        """

        def generated(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            weight, values, size, first_key, end_key, decay, total, total_stride, _ = arguments
            is_bfloat16 = vectors.points_to_bfloat16(signature.args[8])
            keys = 2 if is_bfloat16 else 1
            totals = (total, total_stride)
            places, initial = _decayed_totals(builder, totals, decay, queries=queries, parts=parts)
            words = builder.bitcast(weight, INT32.as_pointer())

            def body(step: Any, sums: list[Any]) -> list[Any]:
                at = builder.mul(step, size)
                loaded_values = [
                    vectors.load(builder, values, builder.add(at, INT64(LANES * part)), INTS)
                    for part in range(parts)
                ]
                shares = (
                    builder.gep(words, [builder.add(step, INT64(query * BLOCK))]) for query in range(queries)
                )
                return _add_weighted(builder, sums, shares, loaded_values, is_bfloat16=is_bfloat16)

            begin = builder.sdiv(first_key, INT64(keys))
            last = builder.sdiv(builder.add(end_key, INT64(keys - 1)), INT64(keys))
            sums = loop(builder, begin, last, 1, initial, body)
            for place, held in zip(places, sums, strict=True):
                vectors.store(builder, held, *place)
            return context.get_dummy_value()

        whole = types.int64
        return (
            types.void(weights, packed, whole, whole, whole, decays, totals, whole, like),
            generated,
        )

    return accumulate_values


PART = 32
"""Numbers of a value that one call adds, twice as many in the `_wide` functions; divides a head's width."""
accumulate_values_one = _accumulator_maker(1, PART // LANES)
accumulate_values_all = _accumulator_maker(QUERIES, PART // LANES)
accumulate_values_one_wide = _accumulator_maker(1, 2 * PART // LANES)
accumulate_values_all_wide = _accumulator_maker(QUERIES, 2 * PART // LANES)
