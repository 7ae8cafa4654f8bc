"""One block of keys and values added to the sums of some queries, in tile registers or in vectors."""

from typing import Any, NamedTuple

from lookahead.backends.cpu.kernels.amx import ROWS, multiply_1_by_2, multiply_1_by_4
from lookahead.backends.cpu.kernels.blocks import (
    BLOCK,
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
from lookahead.backends.cpu.kernels.pointers import (
    int_pointer,
    load_int,
    offset,
    pointer_like,
    address_of,
    store_float,
    store_int,
)
from lookahead.backends.cpu.kernels.rows import copy_row, scale_row
from lookahead.jit import pointer_kernel

MAX_PIECE = 128
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
        scores: float32 [16, BLOCK].
        decays: float32 [16].
        keys: Words of a block's keys, packed.
        values: Words of a block's values, packed.
        span_totals: float32 [queries, width], of the current span.
        span_states: float32 [queries, 2].
        merged: float32 [queries, width], of all spans so far.
        merged_states: float32 [queries, 2].
        partial: float32 [16, width], totals of a tile that is not full.
        bounds: int64 [queries, 2], the first key of a block that a query sees, and the one after the last.
        slots: int64 [BLOCK], of a block whose places lie in order.
    """

    totals: Any
    states: Any
    queries: Any
    scores: Any
    decays: Any
    keys: Any
    values: Any
    span_totals: Any
    span_states: Any
    merged: Any
    merged_states: Any
    partial: Any
    bounds: Any
    slots: Any


@pointer_kernel
def max_queries(heads: int, key_heads: int) -> int:
    """Return how many queries a thread's workspace holds: those of a piece of work, in whole tiles."""
    return (max(MAX_PIECE, heads // key_heads) + 2 * ROWS - 1) // ROWS * ROWS


_SCORES = ROWS * BLOCK
_FIXED = _SCORES + 4 * ROWS
"""Floats of a thread's scratch before the packed keys: scores and decays, filled up to a cache line."""


def attention_scratch(heads: int, key_heads: int, width: int) -> int:
    """Return how many float32 of scratch a thread needs."""
    queries = int(max_queries(heads, key_heads))
    return _FIXED + 2 * BLOCK * width + ROWS * width + queries * (3 * width + 4)


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
    keys = offset(scratch, _FIXED)
    values = offset(keys, BLOCK * width)
    partial = offset(values, BLOCK * width)
    span_totals = offset(partial, ROWS * width)
    merged = offset(span_totals, queries * width)
    copied = offset(merged, queries * width)
    span_states = offset(copied, queries * width)
    return Sums(
        totals,
        states,
        pointer_like(address_of(copied), heads.keys),
        scratch,
        offset(scratch, _SCORES),
        keys,
        values,
        span_totals,
        span_states,
        merged,
        offset(span_states, 2 * queries),
        partial,
        int_pointer(integers),
        int_pointer(integers + 16 * queries),
    )


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
            store_int(sums.bounds, 2 * query, seen)
            store_int(sums.bounds, 2 * query + 1, end)
    return low, high, low == common_low and high == common_high


@pointer_kernel
def add_block(heads: Heads, sums: Sums, at: int, first_node: int, last_node: int, slots: Any) -> None:
    """Add a block's keys and values to the sums of some nodes of a piece, each within its bounds.

    Args:
        heads: The layer's.
        sums: Their `bounds` are set.
        at: Elements before the row and head in the cache.
        first_node: The first node, counted in the piece.
        last_node: The node after the last.
        slots: Pointer to int64 [BLOCK], the slot of each of the block's places.
    """
    of_key, width = heads.heads // heads.key_heads, heads.width
    first, last = first_node * of_key, last_node * of_key
    low, high = BLOCK, 0
    for query in range(first, last):
        low = min(low, load_int(sums.bounds, 2 * query))
        high = max(high, load_int(sums.bounds, 2 * query + 1))
    if low >= high:
        return
    pack_keys(offset(heads.keys, at), width, slots, low, high, sums.keys)
    pack_values(offset(heads.values, at), width, slots, low, high, sums.values)
    if heads.uses_tiles:
        for query in range(first, last, ROWS):
            _add_in_tiles(heads, sums, query, min(ROWS, last - query))
        return
    query = first
    while query < last:
        together = QUERIES if query + QUERIES <= last and _see_the_same(sums, query) else 1
        _add_in_vectors(heads, sums, query, together)
        query += together


@pointer_kernel
def _see_the_same(sums: Sums, query: int) -> bool:
    """Return whether `QUERIES` queries see the same keys of the current block."""
    same = True
    for other in range(query + 1, query + QUERIES):
        for index in range(2):
            same &= load_int(sums.bounds, 2 * other + index) == load_int(sums.bounds, 2 * query + index)
    return same


@pointer_kernel
def _softmax_of(heads: Heads, sums: Sums, query: int, row: int) -> Any:
    """Turn a row of scores into a query's weights; return the decay of its totals."""
    first, end = load_int(sums.bounds, 2 * query), load_int(sums.bounds, 2 * query + 1)
    scores, state = offset(sums.scores, row * BLOCK), offset(sums.span_states, 2 * query)
    return softmax_block(scores, first, end, heads.scale, state, heads.keys)


@pointer_kernel
def _add_in_vectors(heads: Heads, sums: Sums, query: int, together: int) -> None:
    """Add the packed block to one query or to `QUERIES` together, which see the same keys."""
    width, like, weights, decays = heads.width, heads.keys, sums.scores, sums.decays
    first, end = load_int(sums.bounds, 2 * query), load_int(sums.bounds, 2 * query + 1)
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
def _add_in_tiles(heads: Heads, sums: Sums, query: int, count: int) -> None:
    """Add the packed block to at most 16 queries.

    The products of a tile that is not full are taken elsewhere: its other rows are no queries of this block.
    """
    width = heads.width
    queries, totals = offset(sums.queries, query * width), offset(sums.span_totals, query * width)
    multiply_1_by_4(queries, width, sums.keys, BLOCK, ROWS, width, sums.scores, BLOCK, False)
    target = totals if count == ROWS else sums.partial
    for row in range(count):
        decay = _softmax_of(heads, sums, query + row, row)
        scale_row(offset(totals, row * width), decay, width, offset(target, row * width))
    weights = pointer_like(address_of(sums.scores), heads.keys)
    part = 0
    while part < width:
        values, place = offset(sums.values, part), offset(target, part)
        if part + 4 * ROWS <= width:
            multiply_1_by_4(weights, 2 * BLOCK, values, width, ROWS, BLOCK, place, width, True)
            part += 4 * ROWS
        else:
            multiply_1_by_2(weights, 2 * BLOCK, values, width, ROWS, BLOCK, place, width, True)
            part += 2 * ROWS
    if count < ROWS:
        for row in range(count):
            copy_row(offset(target, row * width), width, offset(totals, row * width))
