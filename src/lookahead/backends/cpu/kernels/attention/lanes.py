"""Attention whose sixteen lanes are queries: the softmax and the sums of a tile register's products.

Scores come from the tile registers as [BLOCK, 16], weighted values as [width, 16]. So a maximum and a sum
over keys are taken lane by lane, sixteen queries at once, in one order for all of them.

    scores, one row for each key        q0  q1  q2 ... q15      largest, sum of weights: lane by lane
    weights, one row for two keys       q0  q1  q2 ... q15      a word holds the weights of keys 2k and 2k + 1
    totals, one row for each number     q0  q1  q2 ... q15      as the products of values and weights come out
"""

import math
from typing import Any

from llvmlite import ir
from numba import types

from lookahead.backends.cpu.kernels import vectors
from lookahead.backends.cpu.kernels.attention.blocks import BLOCK, MASKED_SCORE, mask_of, row_of
from lookahead.backends.cpu.kernels.vectors import FLOATS, INT32, INT64, INTS, LANES, SHORTS, loop
from lookahead.jit import compiled

_UNROLLED = 4
"""Keys of a turn of the loops over a block, and sums that are added up at its end."""
LN2 = 0.6931471805599453
_HALF = 0x8000
"""Half a unit in the last place of a bfloat16: weights are rounded to nearest, halves up."""


def _lanes_of(builder: ir.IRBuilder, pointer: Any) -> Any:
    """Return sixteen int64 in memory as a vector of int32."""
    wide = ir.VectorType(INT64, LANES)
    return builder.trunc(builder.load(builder.bitcast(pointer, wide.as_pointer()), align=8), INTS)


@compiled
def softmax_lanes(
    _typing: Any,
    scores: types.CPointer,
    first: types.Integer,
    end: types.Integer,
    firsts: types.CPointer,
    ends: types.CPointer,
    see_all: types.Boolean,
    scale: types.Float,
    states: types.CPointer,
    weights: types.CPointer,
    decays: types.CPointer,
) -> Any:
    """Write the weights, words [BLOCK / 2, 16], of a block's keys from `first` up to `end`, multiples of 4.

    A query sees the keys from `firsts` up to `ends`, int64 [16] each, or all if `see_all`; other keys weigh
    0, and their scores are overwritten. `scale` is positive, and after it weights are powers of two.
    `states`, [2, 16], holds each query's largest scaled score so far and its sum of weights relative to it;
    both are updated. `decays` [16] becomes the factors for the totals of earlier blocks.

    Returns:
        Whether any decay is not 1.
    """

    def generated(_context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        given, first_key, end_key, *bounds, sees_all, factor, states_at, words, decays_at = arguments
        scales = vectors.splat_of(builder, factor)

        def score_of(key: Any, at: int = 0) -> Any:
            place = builder.mul(builder.add(key, INT64(at)), INT64(LANES))
            return vectors.load(builder, given, place, FLOATS)

        with builder.if_then(builder.not_(sees_all)):
            _hide(builder, given, (first_key, end_key), bounds)
        top = builder.fmul(_largest_scores(builder, score_of, first_key, end_key), scales)
        before = vectors.load(builder, states_at, INT64(0), FLOATS)
        after = vectors.larger(builder, vectors.larger(builder, vectors.splat(MASKED_SCORE), top), before)

        def weigh(key: Any, totals: list[Any]) -> list[Any]:
            scaled = [builder.fmul(score_of(key, at), scales) for at in range(_UNROLLED)]
            # Not multiplied and subtracted at once: the largest score has to become exactly 0.
            weighed = [vectors.power_of_two(builder, builder.fsub(score, after)) for score in scaled]
            for at in range(0, _UNROLLED, 2):
                place = builder.mul(builder.add(key, INT64(at)), INT64(LANES // 2))
                vectors.store(builder, _word_of(builder, *weighed[at : at + 2]), words, place)
            return [builder.fadd(total, weight) for total, weight in zip(totals, weighed, strict=True)]

        added = loop(builder, first_key, end_key, _UNROLLED, [vectors.splat(0.0)] * _UNROLLED, weigh)
        total = builder.fadd(builder.fadd(added[0], added[1]), builder.fadd(added[2], added[3]))
        decay = vectors.power_of_two(builder, builder.fsub(before, after))
        vectors.store(builder, decay, decays_at, INT64(0))
        vectors.store(builder, after, states_at, INT64(0))
        held = vectors.load(builder, states_at, INT64(LANES), FLOATS)
        vectors.store(
            builder, vectors.fused_multiply_add(builder, held, decay, total), states_at, INT64(LANES)
        )
        return _differs_from_one(builder, decay)

    whole, yes, real = types.int64, types.boolean, types.float32
    return yes(scores, whole, whole, firsts, ends, yes, real, states, weights, decays), generated


def _differs_from_one(builder: ir.IRBuilder, numbers: Any) -> Any:
    """Return whether any number of a vector is not 1."""
    differ = builder.fcmp_unordered("!=", numbers, vectors.splat(1.0))
    mask = builder.bitcast(differ, ir.IntType(LANES))
    return builder.icmp_unsigned("!=", mask, ir.Constant(ir.IntType(LANES), 0))


def _largest_scores(builder: ir.IRBuilder, score_of: Any, first: Any, end: Any) -> Any:
    """Return each query's largest score of the keys from `first` up to `end`."""

    def largest(key: Any, found: list[Any]) -> list[Any]:
        return [vectors.larger(builder, top, score_of(key, at)) for at, top in enumerate(found)]

    initial = [vectors.splat(-math.inf)] * _UNROLLED
    found = loop(builder, first, end, _UNROLLED, initial, largest)
    halves = [vectors.larger(builder, *found[at : at + 2]) for at in (0, 2)]
    return vectors.larger(builder, *halves)


def _hide(builder: ir.IRBuilder, scores: Any, keys: tuple[Any, Any], bounds: list[Any]) -> None:
    """Set the scores of keys that a query does not see to minus infinity."""
    first, end = (_lanes_of(builder, bound) for bound in bounds)

    def hide(key: Any, _: list[Any]) -> list[Any]:
        place = builder.mul(key, INT64(LANES))
        number = vectors.splat_of(builder, builder.trunc(key, INT32))
        sees = builder.and_(builder.icmp_signed(">=", number, first), builder.icmp_signed("<", number, end))
        score = vectors.load(builder, scores, place, FLOATS)
        vectors.store(builder, builder.select(sees, score, vectors.splat(-math.inf)), scores, place)
        return []

    loop(builder, *keys, 1, [], hide)


def _word_of(builder: ir.IRBuilder, low: Any, high: Any) -> Any:
    """Return words of the weights of two keys, rounded to bfloat16: to nearest, halves up."""
    halves = [builder.add(builder.bitcast(one, INTS), vectors.ints([_HALF] * LANES)) for one in (low, high)]
    upper = builder.and_(halves[1], vectors.ints([-65536] * LANES))
    return builder.or_(builder.lshr(halves[0], vectors.ints([16] * LANES)), upper)


@compiled
def merge_lanes(
    _typing: Any,
    states: types.CPointer,
    totals: types.CPointer,
    more_states: types.CPointer,
    more_totals: types.CPointer,
    takes_part: types.CPointer,
    width: types.Integer,
) -> Any:
    """Add the sums of a later span, states [2, 16] and totals [width, 16], to sixteen queries' sums.

    Only queries whose int64 in `takes_part` [16] is not 0 change. The largest scores of the later span are
    those of powers of two, the others those of powers of e.
    """

    def generated(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        states_at, totals_at, more_at, added_at, parts_at, size = arguments
        takes = builder.icmp_signed("!=", _lanes_of(builder, parts_at), vectors.ints([0] * LANES))
        before = vectors.load(builder, states_at, INT64(0), FLOATS)
        top = builder.fmul(vectors.load(builder, more_at, INT64(0), FLOATS), vectors.splat(LN2))
        after = vectors.larger(builder, before, top)
        kept, added = (
            vectors.exponential(builder, builder.fsub(one, after), may_be_positive=False)
            for one in (before, top)
        )
        sums, more = (vectors.load(builder, at, INT64(LANES), FLOATS) for at in (states_at, more_at))
        merged = builder.fadd(builder.fmul(sums, kept), builder.fmul(more, added))
        vectors.store(builder, builder.select(takes, after, before), states_at, INT64(0))
        vectors.store(builder, builder.select(takes, merged, sums), states_at, INT64(LANES))

        def body(index: Any, _: list[Any]) -> list[Any]:
            held, given = (vectors.load(builder, at, index, FLOATS) for at in (totals_at, added_at))
            total = vectors.fused_multiply_add(builder, given, added, builder.fmul(held, kept))
            vectors.store(builder, builder.select(takes, total, held), totals_at, index)
            return []

        loop(builder, INT64(0), builder.mul(size, INT64(LANES)), LANES, [], body)
        return context.get_dummy_value()

    return (
        types.void(states, totals, more_states, more_totals, takes_part, types.int64),
        generated,
    )


@compiled
def clear_lanes(_typing: Any, states: types.CPointer, totals: types.CPointer, width: types.Integer) -> Any:
    """Set states [2, 16] and totals [width, 16] to nothing."""

    def generated(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        states_at, totals_at, size = arguments
        zero = vectors.splat(0.0)
        vectors.store(builder, vectors.splat(MASKED_SCORE), states_at, INT64(0))
        vectors.store(builder, zero, states_at, INT64(LANES))

        def body(index: Any, _: list[Any]) -> list[Any]:
            vectors.store(builder, zero, totals_at, index)
            return []

        loop(builder, INT64(0), builder.mul(size, INT64(LANES)), LANES, [], body)
        return context.get_dummy_value()

    return types.void(states, totals, types.int64), generated


@compiled
def scale_lanes(
    _typing: Any, totals: types.CPointer, factors: types.CPointer, width: types.Integer, out: types.CPointer
) -> Any:
    """Write totals [width, 16] times the factors [16]; `out` may be the totals themselves."""

    def generated(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        held, factors_at, size, target = arguments
        loaded = vectors.load(builder, factors_at, INT64(0), FLOATS)

        def body(index: Any, _: list[Any]) -> list[Any]:
            scaled = builder.fmul(vectors.load(builder, held, index, FLOATS), loaded)
            vectors.store(builder, scaled, target, index)
            return []

        loop(builder, INT64(0), builder.mul(size, INT64(LANES)), LANES, [], body)
        return context.get_dummy_value()

    return types.void(totals, factors, types.int64, out), generated


@compiled
def copy_some_lanes(
    _typing: Any,
    source: types.CPointer,
    first: types.Integer,
    end: types.Integer,
    width: types.Integer,
    out: types.CPointer,
) -> Any:
    """Copy the lanes from `first` up to `end` of [width, 16]; the other lanes of `out` stay."""

    def generated(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        given, low, high, size, target = arguments
        lanes = vectors.ints(list(range(LANES)))
        bounds = [vectors.splat_of(builder, builder.trunc(bound, INT32)) for bound in (low, high)]
        copied = builder.and_(
            builder.icmp_signed(">=", lanes, bounds[0]), builder.icmp_signed("<", lanes, bounds[1])
        )

        def body(index: Any, _: list[Any]) -> list[Any]:
            new, old = (vectors.load(builder, place, index, FLOATS) for place in (given, target))
            vectors.store(builder, builder.select(copied, new, old), target, index)
            return []

        loop(builder, INT64(0), builder.mul(size, INT64(LANES)), LANES, [], body)
        return context.get_dummy_value()

    return types.void(source, types.int64, types.int64, types.int64, out), generated


@compiled
def transpose_lanes(_typing: Any, totals: types.CPointer, width: types.Integer, out: types.CPointer) -> Any:
    """Write totals [width, 16] as rows [16, width]; the width is a multiple of 16."""

    def generated(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        held, size, target = arguments

        def body(index: Any, _: list[Any]) -> list[Any]:
            at = builder.mul(index, INT64(LANES))
            loaded = [
                vectors.load(builder, held, builder.add(at, INT64(LANES * row)), INTS) for row in range(LANES)
            ]
            for lane, row in enumerate(vectors.transposed(builder, loaded)):
                place = builder.add(index, builder.mul(size, INT64(lane)))
                vectors.store(builder, row, target, place)
            return []

        loop(builder, INT64(0), size, LANES, [], body)
        return context.get_dummy_value()

    return types.void(totals, types.int64, out), generated


def _group_end(builder: ir.IRBuilder, end: Any) -> Any:
    """Return the end of the group of 32 keys that the key before `end` is in."""
    return builder.and_(builder.add(end, INT64(2 * LANES - 1)), INT64(-2 * LANES))


@compiled
def transpose_values(
    _typing: Any,
    source: types.CPointer,
    width: types.Integer,
    slots: types.CPointer,
    first: types.Integer,
    end: types.Integer,
    out: types.CPointer,
) -> Any:
    """Write the bfloat16 values of a block as [width, BLOCK].

    The value of key k is in slot slots[k]; the width is a multiple of 32. Of each group of 32 keys with one
    from `first` up to `end`, the values of the other keys are 0. Other groups are undefined.
    """

    def generated(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        rows, size, places, first_key, end_key, target = arguments
        bounds = (first_key, end_key)
        shorts = builder.bitcast(target, ir.IntType(16).as_pointer())

        def of_keys(group: Any, _: list[Any]) -> list[Any]:
            keys = [builder.add(group, INT64(lane)) for lane in range(LANES)]
            pointers = [row_of(builder, rows, size, places, key, bounds) for key in keys]
            mask = ir.Constant(INTS, ir.Undefined)
            for lane, key in enumerate(keys):
                mask = builder.insert_element(mask, mask_of(builder, key, bounds), INT32(lane))

            def of_numbers(index: Any, _: list[Any]) -> list[Any]:
                loaded = [vectors.load(builder, pointer, index, INTS) for pointer in pointers]
                for pair, vector in enumerate(vectors.transposed(builder, loaded)):
                    kept = builder.and_(vector, mask)
                    for half in range(2):
                        short = builder.lshr(kept, vectors.ints([16 * half] * LANES))
                        number = builder.add(index, INT64(2 * pair + half))
                        place = builder.add(builder.mul(number, INT64(BLOCK)), group)
                        vectors.store(builder, builder.trunc(short, SHORTS), shorts, place)
                return []

            loop(builder, INT64(0), size, 2 * LANES, [], of_numbers)
            return []

        loop(
            builder,
            builder.and_(first_key, INT64(-2 * LANES)),
            _group_end(builder, end_key),
            LANES,
            [],
            of_keys,
        )
        return context.get_dummy_value()

    whole = types.int64
    return types.void(source, whole, slots, whole, whole, out), generated
