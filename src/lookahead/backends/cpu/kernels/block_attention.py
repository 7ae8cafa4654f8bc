"""One block of keys and values added to the sums of some queries, in tile registers or in vectors."""

from typing import Any, NamedTuple

import numpy as np

from lookahead.backends.cpu.kernels.amx import (
    ROWS,
    multiply_2_by_1,
    multiply_4_by_1,
)
from lookahead.backends.cpu.kernels.blocks import (
    BLOCK,
    MASKED_SCORE,
    PART,
    QUERIES,
    accumulate_values_all,
    accumulate_values_all_wide,
    accumulate_values_one,
    accumulate_values_one_wide,
    pack_keys,
    pack_values,
    score_all,
    score_one,
    softmax_block,
)
from lookahead.backends.cpu.kernels.lanes import (
    clear_lanes,
    copy_some_lanes,
    scale_lanes,
    softmax_lanes,
    transpose_lanes,
    transpose_values,
)
from lookahead.backends.cpu.kernels.panels import pack_weights
from lookahead.backends.cpu.kernels.pointers import (
    address_of,
    int_pointer,
    load_float,
    load_int,
    offset,
    pointer_like,
    store_float,
    store_int,
)
from lookahead.backends.cpu.kernels.rows import copy_row
from lookahead.jit import pointer_kernel

MAX_PIECE = 256
"""Maximum number of queries in a piece of work, unless one node has more."""


class Heads(NamedTuple):
    """What the attention of one layer reads.

    Attributes:
        queries: Pointer to [nodes, heads, width].
        keys: Pointer to a layer of the cache, [cache rows, key heads, slots, width], the last two contiguous.
        values: Likewise.
        row_stride: Elements between two rows of the cache.
        head_stride: Elements between two heads of the cache.
        heads: Query heads.
        key_heads: Key and value heads.
        width: Of a head.
        scale: Factor on the scores.
        uses_tiles: Whether bfloat16 is multiplied in tile registers.
    """

    queries: Any
    keys: Any
    values: Any
    row_stride: int
    head_stride: int
    heads: int
    key_heads: int
    width: int
    scale: Any
    uses_tiles: bool


class Sums(NamedTuple):
    """The sums of all threads, and one thread's workspace.

    Attributes:
        totals: float32 [nodes, heads, spans, width], weighted values, not yet divided, of rows that are no
            prompts.
        states: float32 [nodes, heads, spans, 2], the largest score and the sum of weights.
        queries: [queries, width] of the current piece, of the keys' type; this and all that follows belongs
            to one thread.
        scores: float32 [16, BLOCK]; in tiles, twice [BLOCK, 16].
        decays: float32 [16]; in tiles, twice.
        weights: In tiles, twice words [BLOCK / 2, 16].
        keys: Words of a block's keys, packed; in tiles, the keys [BLOCK, width] of a block that is not full.
        values: Words of a block's values, packed; in tiles, [width, BLOCK].
        span_totals: float32 [queries, width], of the current span.
        span_states: float32 [queries, 2].
        merged: float32 [queries, width], of all spans so far.
        merged_states: float32 [queries, 2].
        packed_queries: In tiles, words [queries / 16, width / 2, 16].
        lane_totals: In tiles, float32 [queries / 16, width, 16], of the current span.
        lane_states: In tiles, float32 [queries / 16, 2, 16]: the largest scores, and the sums of weights.
        merged_lanes: In tiles, float32 [queries / 16, width, 16], of all spans so far.
        merged_lane_states: In tiles, float32 [queries / 16, 2, 16].
        partial: In tiles, float32 [width, 16], totals of a tile of which not all queries see a block.
        firsts: int64 [queries], the first key of the current block that each query sees.
        ends: int64 [queries], the key after the last that each query sees.
        slots: int64 [BLOCK], of a block whose places lie in order.
    """

    totals: Any
    states: Any
    queries: Any
    scores: Any
    decays: Any
    weights: Any
    keys: Any
    values: Any
    span_totals: Any
    span_states: Any
    merged: Any
    merged_states: Any
    packed_queries: Any
    lane_totals: Any
    lane_states: Any
    merged_lanes: Any
    merged_lane_states: Any
    partial: Any
    firsts: Any
    ends: Any
    slots: Any


class Keys(NamedTuple):
    """The keys of a block that are added to the sums of some queries.

    Attributes:
        at: Elements before the row and head in the cache.
        slots: Pointer to int64 [BLOCK], the slot of each of the block's places.
        first: The first key that any of the queries sees.
        end: The key after the last.
        are_in_order: Whether the slots follow one another.
    """

    at: int
    slots: Any
    first: int
    end: int
    are_in_order: bool


@pointer_kernel
def max_queries(heads: int, key_heads: int) -> int:
    """Return how many queries a thread's workspace holds: those of a piece of work, in whole tiles."""
    return (max(MAX_PIECE, heads // key_heads) + 2 * ROWS - 1) // ROWS * ROWS


_SCORES = 2 * ROWS * BLOCK
_LOG2_E = np.float32(1.4426950408889634)
_GROUP = 32
"""Keys that one instruction on tiles multiplies weights of."""
_DECAYS = 4 * ROWS
_WEIGHTS = ROWS * BLOCK // 2


def attention_scratch(heads: int, key_heads: int, width: int) -> int:
    """Return how many float32 of scratch a thread needs."""
    queries = int(max_queries(heads, key_heads))
    of_block = _SCORES + _DECAYS + 2 * _WEIGHTS + 2 * BLOCK * width + ROWS * width
    return of_block + queries * (6 * width + 8)


def attention_integers(heads: int, key_heads: int) -> int:
    """Return how many int64 of scratch a thread needs."""
    return 2 * int(max_queries(heads, key_heads)) + BLOCK


@pointer_kernel
def sums_of_thread(totals: Any, states: Any, heads: Heads, scratch: Any, integers: int) -> Sums:
    """Return the sums with a thread's workspace.

    Args:
        totals: See `Sums`.
        states: See `Sums`.
        heads: The layer's.
        scratch: Pointer to float32 [attention_scratch(heads, key heads, width)].
        integers: Address of int64 [attention_integers(heads, key heads)].
    """
    queries, width = max_queries(heads.heads, heads.key_heads), heads.width
    decays = offset(scratch, _SCORES)
    weights = offset(decays, _DECAYS)
    keys = offset(weights, 2 * _WEIGHTS)
    values = offset(keys, BLOCK * width)
    partial = offset(values, BLOCK * width)
    rows = offset(partial, ROWS * width)  # six times [queries, width], then the states
    states_of_rows = offset(rows, 6 * queries * width)
    return Sums(
        totals,
        states,
        pointer_like(address_of(rows), heads.keys),
        scratch,
        decays,
        weights,
        keys,
        values,
        offset(rows, queries * width),
        states_of_rows,
        offset(rows, 2 * queries * width),
        offset(states_of_rows, 2 * queries),
        offset(rows, 3 * queries * width),
        offset(rows, 4 * queries * width),
        offset(states_of_rows, 4 * queries),
        offset(rows, 5 * queries * width),
        offset(states_of_rows, 6 * queries),
        partial,
        int_pointer(integers),
        int_pointer(integers + 8 * queries),
        int_pointer(integers + 16 * queries),
    )


@pointer_kernel
def copy_queries(heads: Heads, sums: Sums, key_head: int, first: int, last: int) -> None:
    """Copy the queries of some nodes and a key head to where they lie one after the other, node by node."""
    width, of_key, query = heads.width, heads.heads // heads.key_heads, 0
    for node in range(first, last):
        for head in range(key_head * of_key, (key_head + 1) * of_key):
            source = offset(heads.queries, (node * heads.heads + head) * width)
            copy_row(source, width, offset(sums.queries, query * width))
            query += 1
    if heads.uses_tiles:
        for tile in range(0, query, ROWS):
            at = tile * width
            pack_weights(offset(sums.queries, at), width, width, offset(sums.packed_queries, at // 2), 0)


@pointer_kernel
def clear_sums(states: Any, totals: Any, queries: int, width: int) -> None:
    """Set sums to nothing."""
    for query in range(queries):
        store_float(states, 2 * query, np.float32(MASKED_SCORE))
        store_float(states, 2 * query + 1, np.float32(0.0))
    for index in range(queries * width):
        store_float(totals, index, np.float32(0.0))


@pointer_kernel
def begin_span(heads: Heads, sums: Sums, queries: int) -> None:
    """Set the sums of a span to nothing."""
    if not heads.uses_tiles:
        clear_sums(sums.span_states, sums.span_totals, queries, heads.width)
        return
    for tile in range((queries + ROWS - 1) // ROWS):
        states, totals = offset(sums.lane_states, 2 * tile * ROWS), tile * ROWS * heads.width
        clear_lanes(states, offset(sums.lane_totals, totals), heads.width)


@pointer_kernel
def write_rows(heads: Heads, states: Any, totals: Any, queries: int, states_out: Any, totals_out: Any) -> None:
    """Write the sums of tiles, states [2, 16] and totals [width, 16] each, as rows, one for each query."""
    for tile in range((queries + ROWS - 1) // ROWS):
        at = tile * ROWS * heads.width
        transpose_lanes(offset(totals, at), heads.width, offset(totals_out, at))
        for lane in range(ROWS):
            for index in range(2):
                number = load_float(states, (2 * tile + index) * ROWS + lane)
                store_float(states_out, 2 * (tile * ROWS + lane) + index, number)


@pointer_kernel
def set_bounds(
    trees: Any, heads: Heads, sums: Sums, piece: Any, first: int, last: int, block: int
) -> tuple[int, int, bool]:
    """Set which keys of a block the queries of some nodes of a piece see.

    Returns:
        The first key that any of them sees, the one after the last, and whether all see the same keys.
    """
    of_key = heads.heads // heads.key_heads
    low, high, common_low, common_high = BLOCK, 0, 0, BLOCK
    for node in range(first, last):
        seen = min(BLOCK, max(0, load_int(trees.firsts, node) - block * BLOCK))
        end = max(0, min(BLOCK, load_int(trees.places, node) - block * BLOCK + 1))
        low, high = min(low, seen), max(high, end)
        common_low, common_high = max(common_low, seen), min(common_high, end)
        for query in range((node - piece.first) * of_key, (node + 1 - piece.first) * of_key):
            store_int(sums.firsts, query, seen)
            store_int(sums.ends, query, end)
    return low, high, low == common_low and high == common_high


@pointer_kernel
def add_block(
    heads: Heads, sums: Sums, at: int, queries: int, first: int, last: int, slots: Any, are_in_order: bool
) -> None:
    """Add a block's keys and values to the sums of some queries of a piece, each within its bounds.

    Args:
        heads: The layer's.
        sums: Their `firsts` and `ends` are set.
        at: Elements before the row and head in the cache.
        queries: Of the piece.
        first: The first query.
        last: The query after the last.
        slots: Pointer to int64 [BLOCK], the slot of each of the block's places.
        are_in_order: Whether these slots follow one another.
    """
    low, high = BLOCK, 0
    for query in range(first, last):
        low, high = min(low, load_int(sums.firsts, query)), max(high, load_int(sums.ends, query))
    if low >= high:
        return
    if heads.uses_tiles:
        keys = Keys(at, slots, low, high, are_in_order)
        _add_in_tiles(heads, sums, keys, queries, first, last)
        return
    width = heads.width
    pack_keys(offset(heads.keys, at), width, slots, low, high, sums.keys)
    pack_values(offset(heads.values, at), width, slots, low, high, sums.values)
    query = first
    while query < last:
        together = QUERIES if query + QUERIES <= last and _see_the_same(sums, query) else 1
        _add_in_vectors(heads, sums, query, together)
        query += together


@pointer_kernel
def _see_the_same(sums: Sums, query: int) -> bool:
    """Return whether `QUERIES` queries see the same keys of the current block."""
    first, end, same = load_int(sums.firsts, query), load_int(sums.ends, query), True
    for other in range(query + 1, query + QUERIES):
        same &= load_int(sums.firsts, other) == first and load_int(sums.ends, other) == end
    return same


@pointer_kernel
def _softmax_of(heads: Heads, sums: Sums, query: int, row: int) -> Any:
    """Turn a row of scores into a query's weights; return the decay of its totals."""
    first, end = load_int(sums.firsts, query), load_int(sums.ends, query)
    scores, state = offset(sums.scores, row * BLOCK), offset(sums.span_states, 2 * query)
    return softmax_block(scores, first, end, heads.scale, state, heads.keys)


@pointer_kernel
def _add_in_vectors(heads: Heads, sums: Sums, query: int, together: int) -> None:
    """Add the packed block to one query or to `QUERIES` together, which see the same keys."""
    width, like, weights, decays = heads.width, heads.keys, sums.scores, sums.decays
    first, end = load_int(sums.firsts, query), load_int(sums.ends, query)
    if first >= end:
        return
    queries = offset(sums.queries, query * width)
    if together == QUERIES:
        score_all(queries, width, sums.keys, sums.scores)
    else:
        score_one(queries, width, sums.keys, sums.scores)
    for row in range(together):
        store_float(decays, row, _softmax_of(heads, sums, query + row, row))
    step = 2 * PART if width % (2 * PART) == 0 else PART
    for part in range(0, width, step):
        values, totals = offset(sums.values, part), offset(sums.span_totals, query * width + part)
        if together == QUERIES and step > PART:
            accumulate_values_all_wide(weights, values, width, first, end, decays, totals, width, like)
        elif together == QUERIES:
            accumulate_values_all(weights, values, width, first, end, decays, totals, width, like)
        elif step > PART:
            accumulate_values_one_wide(weights, values, width, first, end, decays, totals, width, like)
        else:
            accumulate_values_one(weights, values, width, first, end, decays, totals, width, like)


@pointer_kernel
def _add_in_tiles(heads: Heads, sums: Sums, keys: Keys, queries: int, first: int, last: int) -> None:
    """Add a block to the sums of some queries of a piece, sixteen at a time.

    The tile registers multiply for the tiles before and after while a softmax is computed.
    """
    rows, values = _keys_in_order(heads, sums, keys), pointer_like(address_of(sums.values), heads.keys)
    transpose_values(
        offset(heads.values, keys.at), heads.width, keys.slots, keys.first, keys.end, sums.values
    )
    first_tile, end_tile = first // ROWS, (last + ROWS - 1) // ROWS
    _score_tile(heads, sums, first_tile, rows, keys)
    decays_before = True
    for tile in range(first_tile, end_tile + 1):
        if tile + 1 < end_tile:
            _score_tile(heads, sums, tile + 1, rows, keys)
        decays = False
        if tile < end_tile:
            decays = _weigh_tile(heads, sums, tile, keys, queries, first, last)
        if tile > first_tile:
            _add_values(heads, sums, tile - 1, values, keys, queries, first, last, decays_before)
        decays_before = decays


@pointer_kernel
def _keys_in_order(heads: Heads, sums: Sums, keys: Keys) -> Any:
    """Return a pointer to the keys [BLOCK, width] of a block; copied, unless they may be read where they lie."""
    width = heads.width
    if keys.are_in_order and keys.first == 0 and keys.end == BLOCK:
        return offset(heads.keys, keys.at + load_int(keys.slots, 0) * width)
    copied = pointer_like(address_of(sums.keys), heads.keys)
    for key in range(keys.first, keys.end):
        source = offset(heads.keys, keys.at + load_int(keys.slots, key) * width)
        copy_row(source, width, offset(copied, key * width))
    return copied


@pointer_kernel
def _score_tile(heads: Heads, sums: Sums, tile: int, rows: Any, keys: Keys) -> None:
    """Write the scores of a tile's queries with keys [BLOCK, width], to one of two places in turn."""
    width, end = heads.width, (keys.end + _GROUP - 1) // _GROUP * _GROUP
    queries = offset(sums.packed_queries, tile * ROWS * width // 2)
    key = keys.first // _GROUP * _GROUP
    while key < end:
        these, out = offset(rows, key * width), offset(sums.scores, (tile % 2 * BLOCK + key) * ROWS)
        if key + 2 * _GROUP <= end:
            multiply_4_by_1(these, width, queries, ROWS, 0, width, out, ROWS, False)
            key += 2 * _GROUP
        else:
            multiply_2_by_1(these, width, queries, ROWS, 0, width, out, ROWS, False)
            key += _GROUP


@pointer_kernel
def _lanes_of_tile(tile: int, queries: int, first: int, last: int) -> tuple[int, int, bool]:
    """Return a tile's lanes of the queries from `first` up to `last`, and whether they are all its queries."""
    begin = tile * ROWS
    lanes = min(ROWS, queries - begin)
    first_lane, end_lane = max(0, first - begin), min(lanes, last - begin)
    return first_lane, end_lane, end_lane - first_lane == lanes


@pointer_kernel
def _weigh_tile(
    heads: Heads, sums: Sums, tile: int, keys: Keys, queries: int, first: int, last: int
) -> bool:
    """Turn a tile's scores into weights, for the queries from `first` up to `last`.

    Returns:
        Whether the totals of any query decay.
    """
    first_lane, end_lane, _ = _lanes_of_tile(tile, queries, first, last)
    query = tile * ROWS
    begin, end = keys.first // _GROUP * _GROUP, (keys.end + _GROUP - 1) // _GROUP * _GROUP
    see_all = end_lane - first_lane == ROWS
    for lane in range(ROWS):
        if lane < first_lane or lane >= end_lane:
            store_int(sums.ends, query + lane, 0)
        see_all &= load_int(sums.firsts, query + lane) <= begin and load_int(sums.ends, query + lane) >= end
    decays: bool = softmax_lanes(
        offset(sums.scores, tile % 2 * ROWS * BLOCK),
        begin,
        end,
        offset(sums.firsts, query),
        offset(sums.ends, query),
        see_all,
        np.float32(heads.scale * _LOG2_E),
        offset(sums.lane_states, 2 * query),
        offset(sums.weights, tile % 2 * _WEIGHTS),
        offset(sums.decays, tile % 2 * ROWS),
    )
    return decays


@pointer_kernel
def _add_values(
    heads: Heads,
    sums: Sums,
    tile: int,
    values: Any,
    keys: Keys,
    queries: int,
    first: int,
    last: int,
    decays: bool,
) -> None:
    """Add a block's values [width, BLOCK], weighted, to a tile's totals.

    If not all of the tile's queries take part, the totals of the others stay: values that are not finite would
    change them.
    """
    width = heads.width
    first_lane, end_lane, are_all = _lanes_of_tile(tile, queries, first, last)
    totals, weights = offset(sums.lane_totals, tile * ROWS * width), offset(sums.weights, tile % 2 * _WEIGHTS)
    target = totals if are_all else sums.partial
    if decays or not are_all:
        scale_lanes(totals, offset(sums.decays, tile % 2 * ROWS), width, target)
    begin, end = keys.first // _GROUP * _GROUP, (keys.end + _GROUP - 1) // _GROUP * _GROUP
    words, part = offset(weights, begin // 2 * ROWS), 0
    while part < width:
        rows, place = offset(values, part * BLOCK + begin), offset(target, part * ROWS)
        if part + 4 * ROWS <= width:
            multiply_4_by_1(rows, BLOCK, words, ROWS, 0, end - begin, place, ROWS, True)
            part += 4 * ROWS
        else:
            multiply_2_by_1(rows, BLOCK, words, ROWS, 0, end - begin, place, ROWS, True)
            part += 2 * ROWS
    if not are_all:
        copy_some_lanes(target, first_lane, end_lane, width, totals)
