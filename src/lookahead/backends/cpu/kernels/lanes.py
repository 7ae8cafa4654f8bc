"""Attention whose sixteen lanes are queries: the softmax and the sums of a tile register's products.

Scores come from the tile registers as [BLOCK, 16], weighted values as [width, 16]. So a maximum and a sum over
keys are taken lane by lane, sixteen queries at once, in one order for all of them.

    scores, one row for each key        q0  q1  q2 ... q15      largest, sum of weights: lane by lane
    weights, one row for two keys       q0  q1  q2 ... q15      a word holds the weights of keys 2k and 2k + 1
    totals, one row for each number     q0  q1  q2 ... q15      as the products of values and weights come out
"""

import math
from typing import Any

from llvmlite import ir
from numba import types

from lookahead.backends.cpu.kernels import vectors
from lookahead.backends.cpu.kernels.blocks import BLOCK, MASKED_SCORE, mask_of, row_of
from lookahead.backends.cpu.kernels.vectors import FLOATS, INT32, INT64, INTS, LANES, SHORTS, loop
from lookahead.jit import compiled

_UNROLLED = 4
"""Keys of a turn of the loops over a block, and sums that are added up at its end."""
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
    firsts: types.CPointer,
    ends: types.CPointer,
    see_all: types.Boolean,
    scale: types.Float,
    tops: types.CPointer,
    sums: types.CPointer,
    weights: types.CPointer,
    decays: types.CPointer,
) -> Any:
    """Write the weights of a block, words [BLOCK / 2, 16], from its scores [BLOCK, 16].

    A query sees the keys from `firsts` up to `ends`, int64 [16] each, or all if `see_all`; other keys weigh 0.
    `tops` and `sums` hold each query's largest score so far and its sum of weights relative to it; both are
    updated. `decays` becomes the factors for the totals of earlier blocks.

    Args are pointers, and `scale`, a positive factor on the scores, after which weights are powers of two: so
    it, and `tops`, contain the logarithm of e to base 2.

    Returns:
        Whether any decay is not 1.
    """

    def generated(_context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        given, first_keys, end_keys, sees_all, factor, tops_at, sums_at, words, decays_at = arguments
        scales, masked = vectors.splat_of(builder, factor), vectors.splat(MASKED_SCORE)

        def score_of(key: Any) -> Any:
            return vectors.load(builder, given, builder.mul(key, INT64(LANES)), FLOATS)

        with builder.if_then(builder.not_(sees_all)):
            first, end = _lanes_of(builder, first_keys), _lanes_of(builder, end_keys)

            def hide(key: Any, _: list[Any]) -> list[Any]:
                keys = vectors.splat_of(builder, builder.trunc(key, INT32))
                sees = builder.and_(
                    builder.icmp_signed(">=", keys, first), builder.icmp_signed("<", keys, end)
                )
                seen = builder.select(sees, score_of(key), vectors.splat(-math.inf))
                vectors.store(builder, seen, given, builder.mul(key, INT64(LANES)))
                return []

            loop(builder, INT64(0), INT64(BLOCK), 1, [], hide)

        def largest(key: Any, found: list[Any]) -> list[Any]:
            return [
                vectors.larger(builder, top, score_of(builder.add(key, INT64(at))))
                for at, top in enumerate(found)
            ]

        initial = [vectors.splat(-math.inf)] * _UNROLLED
        found = loop(builder, INT64(0), INT64(BLOCK), _UNROLLED, initial, largest)
        halves = [vectors.larger(builder, *found[at : at + 2]) for at in (0, 2)]
        top = builder.fmul(vectors.larger(builder, *halves), scales)
        before = vectors.load(builder, tops_at, INT64(0), FLOATS)
        after = vectors.larger(builder, vectors.larger(builder, masked, top), before)

        def weigh(key: Any, totals: list[Any]) -> list[Any]:
            weighed = []
            for at in range(_UNROLLED):
                score = builder.fmul(score_of(builder.add(key, INT64(at))), scales)
                weighed.append(vectors.power_of_two(builder, builder.fsub(score, after)))
            for at in range(0, _UNROLLED, 2):
                low, high = (
                    builder.add(builder.bitcast(one, INTS), vectors.ints([_HALF] * LANES))
                    for one in weighed[at : at + 2]
                )
                low = builder.lshr(low, vectors.ints([16] * LANES))
                word = builder.or_(low, builder.and_(high, vectors.ints([-65536] * LANES)))
                place = builder.mul(builder.add(key, INT64(at)), INT64(LANES // 2))
                vectors.store(builder, word, words, place)
            return [builder.fadd(total, weight) for total, weight in zip(totals, weighed, strict=True)]

        added = loop(builder, INT64(0), INT64(BLOCK), _UNROLLED, [vectors.splat(0.0)] * _UNROLLED, weigh)
        total = builder.fadd(builder.fadd(added[0], added[1]), builder.fadd(added[2], added[3]))
        decay = vectors.power_of_two(builder, builder.fsub(before, after))
        held = vectors.load(builder, sums_at, INT64(0), FLOATS)
        vectors.store(builder, vectors.fused_multiply_add(builder, held, decay, total), sums_at, INT64(0))
        vectors.store(builder, after, tops_at, INT64(0))
        vectors.store(builder, decay, decays_at, INT64(0))
        decays_differ = builder.fcmp_unordered("!=", decay, vectors.splat(1.0))
        mask = builder.bitcast(decays_differ, ir.IntType(LANES))
        return builder.icmp_unsigned("!=", mask, ir.Constant(ir.IntType(LANES), 0))

    return (
        types.boolean(scores, firsts, ends, types.boolean, types.float32, tops, sums, weights, decays),
        generated,
    )


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
    """Write the bfloat16 values of a block as [width, BLOCK]; those of keys outside `first` to `end` are 0.

    The value of key k is in slot slots[k]; the width is a multiple of 32.
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

        loop(builder, INT64(0), INT64(BLOCK), LANES, [], of_keys)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(source, whole, slots, whole, whole, out), generated
