"""One block of keys and values added to the sums of some queries, in tile registers or in vectors."""

from typing import Any

import numpy as np

from lookahead.backends.cpu.kernels.amx import (
    HAS_TILES,
    ROWS,
    multiply_2_by_1,
    multiply_4_by_1,
)
from lookahead.backends.cpu.kernels.attention.blocks import (
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
from lookahead.backends.cpu.kernels.attention.lanes import (
    clear_lanes,
    copy_some_lanes,
    scale_lanes,
    softmax_lanes,
    transpose_lanes,
    transpose_values,
)
from lookahead.backends.cpu.kernels.attention.workspace import WEIGHTS, Heads, Keys, Sums
from lookahead.backends.cpu.kernels.panels import pack_weights
from lookahead.backends.cpu.kernels.pointers import (
    address_of,
    load_float,
    load_int,
    offset,
    pointer_like,
    store_float,
    store_int,
)
from lookahead.backends.cpu.kernels.rows import copy_row
from lookahead.jit import pointer_kernel

_LOG2_E = np.float32(1.4426950408889634)
_GROUP = 32
"""Keys that one instruction on tiles multiplies weights of."""


@pointer_kernel
def copy_queries(heads: Heads, sums: Sums, key_head: int, first: int, last: int) -> None:
    """Copy the queries of some nodes and a key head to where they lie one after the other, node by node."""
    width, of_key, query = heads.width, heads.heads // heads.key_heads, 0
    for node in range(first, last):
        for head in range(key_head * of_key, (key_head + 1) * of_key):
            source = offset(heads.queries, (node * heads.heads + head) * width)
            copy_row(source, width, offset(sums.queries, query * width))
            query += 1
    if HAS_TILES and heads.uses_tiles:
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
    if not (HAS_TILES and heads.uses_tiles):
        clear_sums(sums.span_states, sums.span_totals, queries, heads.width)
        return
    for tile in range((queries + ROWS - 1) // ROWS):
        states, totals = offset(sums.lane_states, 2 * tile * ROWS), tile * ROWS * heads.width
        clear_lanes(states, offset(sums.lane_totals, totals), heads.width)


@pointer_kernel
def write_rows(
    heads: Heads, states: Any, totals: Any, queries: int, states_out: Any, totals_out: Any
) -> None:
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
    if HAS_TILES and heads.uses_tiles:
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
    """Return a pointer to the keys [BLOCK, width] of a block, copied if they cannot be read in place."""
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
    """Return a tile's lanes of the queries from `first` up to `last`, and whether these are all of them."""
    begin = tile * ROWS
    lanes = min(ROWS, queries - begin)
    first_lane, end_lane = max(0, first - begin), min(lanes, last - begin)
    return first_lane, end_lane, end_lane - first_lane == lanes


@pointer_kernel
def _weigh_tile(heads: Heads, sums: Sums, tile: int, keys: Keys, queries: int, first: int, last: int) -> bool:
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
        offset(sums.weights, tile % 2 * WEIGHTS),
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

    If not all of the tile's queries take part, the totals of the others stay: values that are not finite
    would change them.
    """
    width = heads.width
    first_lane, end_lane, are_all = _lanes_of_tile(tile, queries, first, last)
    totals, weights = offset(sums.lane_totals, tile * ROWS * width), offset(sums.weights, tile % 2 * WEIGHTS)
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
