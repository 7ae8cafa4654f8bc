"""Attention of draft trees behind a cache: blocks of keys at fixed places, added up in the order of the text.

A node sees its row's part of the cache and the path above it. Keys are taken block by block, as the places of
the text count them: those of the cache are shared by all nodes, a node's last ones are looked up in the slot
table. So what comes of a node does not depend on where in the cache its path lies, nor on what else is in
the tree: the same text gives the same bits (split keys as in Flash-Decoding, softmax as in FlashAttention).
"""

from typing import Any, NamedTuple

import numpy as np

from lookahead.decoding.fused.pointers import exponential as exponential_of
from lookahead.decoding.fused.pointers import int_pointer, integer_at, moved, number_at, put
from lookahead.decoding.fused.products import dot_unit, share_of
from lookahead.decoding.fused.tiles import (
    BLOCK,
    HIDDEN,
    dots_of_slots,
    soften_block,
    weigh_1,
    weigh_4,
    weigh_slots,
)
from lookahead.drafting.compilation import pointer_kernel

SPAN = 512
"""Places of the text that one piece of work covers; the spans of a node are added up at the end."""
PIECE = 32
"""Queries that one piece of work has, if their nodes are not fewer."""
PART = 32
"""Numbers of a value that are added up at once; a head's width is a multiple of it."""
_BLOCKS_OF_SPAN = SPAN // BLOCK


class Trees(NamedTuple):
    """Where the nodes of all rows stand; pointers to int64.

    Attributes:
        rows: of the batch.
        nodes: of each row's tree.
        lengths: [rows], tokens of a row in the cache, padding included.
        paddings: [rows], how many of them are padding.
        depths: [rows, nodes].
        slots: [rows, nodes, tail], the slots of the places behind the row's last full block.
        tail: a multiple of `BLOCK`.
        spans: that hold all places.
    """

    rows: int
    nodes: int
    lengths: Any
    paddings: Any
    depths: Any
    slots: Any
    tail: int
    spans: int


class Heads(NamedTuple):
    """What the attention of one layer reads.

    Attributes:
        queries: pointer to [rows, nodes, heads, width].
        keys: pointer to a layer of the cache, [rows, key heads, slots, width], the last two side by side.
        values: likewise.
        row_apart: elements between two rows of the cache.
        head_apart: elements between two heads of the cache.
        heads: of queries.
        key_heads: of keys and values.
        width: of a head.
        scale: factor on the scores.
        window: places that a token sees, itself included; 0 for all.
    """

    queries: Any
    keys: Any
    values: Any
    row_apart: int
    head_apart: int
    heads: int
    key_heads: int
    width: int
    scale: Any
    window: int


class Sums(NamedTuple):
    """Weighted values that are not yet divided; pointers to float32.

    Attributes:
        totals: [rows, nodes, heads, spans, width].
        states: [rows, nodes, heads, spans, 2], the largest score and the sum of weights.
        scores: [PIECE, BLOCK], each thread's own.
        decays: [PIECE], each thread's own.
    """

    totals: Any
    states: Any
    scores: Any
    decays: Any


@pointer_kernel
def nodes_of_piece(heads: int, key_heads: int) -> int:
    """Return how many nodes share a piece of work, a multiple of four."""
    return max(4, PIECE * key_heads // heads // 4 * 4)


@pointer_kernel
def attend(trees: Trees, heads: Heads, sums: Sums, member: int, members: int) -> None:
    """Do a member's share of a layer's attention; `sums` is complete when all members have done theirs."""
    group = nodes_of_piece(heads.heads, heads.key_heads)
    groups = (trees.nodes + group - 1) // group
    pieces = trees.rows * trees.spans * heads.key_heads * groups
    first_piece, end_piece = share_of(pieces, member, members)
    for piece in range(first_piece, end_piece):
        first = piece % groups * group
        last = min(first + group, trees.nodes)
        rest = piece // groups
        key_head, rest = rest % heads.key_heads, rest // heads.key_heads
        span, row = rest % trees.spans, rest // trees.spans
        queries_of_key = heads.heads // heads.key_heads
        for head in range(key_head * queries_of_key, (key_head + 1) * queries_of_key):
            _start(trees, heads, sums, row, head, span, first, last)
            _attend_to_shared(trees, heads, sums, row, head, span, first, last)
            for node in range(first, last):
                _attend_to_path(trees, heads, sums, row, head, span, node)


@pointer_kernel
def gather(trees: Trees, heads: Heads, sums: Sums, out: Any, member: int, members: int) -> None:
    """Write what a member's share of nodes and heads attended to, [rows, nodes, heads, width]."""
    first, last = share_of(trees.rows * trees.nodes * heads.heads, member, members)
    width, spans = heads.width, trees.spans
    for item in range(first, last):
        states = moved(sums.states, item * spans * 2)
        totals = moved(sums.totals, item * spans * width)
        top = number_at(states, 0)
        for span in range(1, spans):
            top = max(top, number_at(states, 2 * span))
        weight = np.float32(0.0)
        for span in range(spans):
            share = exponential_of(number_at(states, 2 * span) - top)
            weight += share * number_at(states, 2 * span + 1)
            put(states, 2 * span, share)
        scale = np.float32(1.0) / weight
        for index in range(width):
            total = np.float32(0.0)
            for span in range(spans):
                total += number_at(states, 2 * span) * number_at(totals, span * width + index)
            put(out, item * width + index, total * scale)


@pointer_kernel
def _place(trees: Trees, row: int, node: int) -> int:
    """Return a node's place in its row's text."""
    place: int = integer_at(trees.lengths, row) + integer_at(trees.depths, row * trees.nodes + node)
    return place


@pointer_kernel
def _first_seen(trees: Trees, heads: Heads, row: int, node: int) -> int:
    """Return the first place that a node sees."""
    padding: int = integer_at(trees.paddings, row)
    if heads.window == 0:
        return padding
    return max(padding, _place(trees, row, node) - heads.window + 1)


@pointer_kernel
def _item(trees: Trees, heads: Heads, row: int, node: int, head: int, span: int) -> int:
    """Return a query's place among the sums."""
    return ((row * trees.nodes + node) * heads.heads + head) * trees.spans + span


@pointer_kernel
def _start(
    trees: Trees, heads: Heads, sums: Sums, row: int, head: int, span: int, first: int, last: int
) -> None:
    for node in range(first, last):
        item = _item(trees, heads, row, node, head, span)
        put(sums.states, 2 * item, np.float32(HIDDEN))
        put(sums.states, 2 * item + 1, np.float32(0.0))
        for index in range(heads.width):
            put(sums.totals, item * heads.width + index, np.float32(0.0))


@pointer_kernel
def _attend_to_shared(
    trees: Trees, heads: Heads, sums: Sums, row: int, head: int, span: int, first: int, last: int
) -> None:
    """Weigh, for some nodes, the full blocks of a span that the cache holds."""
    length, width, count = integer_at(trees.lengths, row), heads.width, last - first
    seen = _first_seen(trees, heads, row, first)
    for node in range(first + 1, last):
        seen = min(seen, _first_seen(trees, heads, row, node))
    offset = row * heads.row_apart + head * heads.key_heads // heads.heads * heads.head_apart
    apart = heads.heads * width
    queries = moved(heads.queries, ((row * trees.nodes + first) * heads.heads + head) * width)
    begin = max(span * _BLOCKS_OF_SPAN, seen // BLOCK)
    end = min((span + 1) * _BLOCKS_OF_SPAN, length // BLOCK)
    for block in range(begin, end):
        at = offset + block * BLOCK * width
        keys, values = moved(heads.keys, at), moved(heads.values, at)
        for unit in range(0, BLOCK, 16):
            dot_unit(moved(keys, unit * width), width, queries, apart, count, moved(sums.scores, unit), BLOCK)
        for index in range(count):
            hidden = max(0, _first_seen(trees, heads, row, first + index) - block * BLOCK)
            item = _item(trees, heads, row, first + index, head, span)
            decay = soften_block(
                moved(sums.scores, index * BLOCK), hidden, BLOCK, heads.scale, moved(sums.states, 2 * item)
            )
            put(sums.decays, index, decay)
        hidden = max(0, seen - block * BLOCK)
        _weigh_shared(trees, heads, sums, values, hidden, _item(trees, heads, row, first, head, span), count)


@pointer_kernel
def _weigh_shared(
    trees: Trees, heads: Heads, sums: Sums, values: Any, hidden: int, item: int, count: int
) -> None:
    """Add a block's values to the sums of consecutive nodes, the first of which is `item`."""
    width, none = heads.width, int_pointer(0)
    apart = heads.heads * trees.spans * width
    index = 0
    while index < count:
        weights, decays = moved(sums.scores, index * BLOCK), moved(sums.decays, index)
        totals = moved(sums.totals, item * width + index * apart)
        for part in range(0, width, PART):
            these, place = moved(values, part), moved(totals, part)
            if index + 4 <= count:
                weigh_4(weights, these, width, none, hidden, BLOCK, decays, place, apart)
            else:
                weigh_1(weights, these, width, none, hidden, BLOCK, decays, place, apart)
        index += 4 if index + 4 <= count else 1


@pointer_kernel
def _attend_to_path(
    trees: Trees, heads: Heads, sums: Sums, row: int, head: int, span: int, node: int
) -> None:
    """Weigh a node's last blocks in a span: the cache's end and the path above the node, by their slots."""
    width, place = heads.width, _place(trees, row, node)
    first_block = integer_at(trees.lengths, row) // BLOCK
    seen = _first_seen(trees, heads, row, node)
    begin = max(span * _BLOCKS_OF_SPAN, first_block, seen // BLOCK)
    end = min((span + 1) * _BLOCKS_OF_SPAN, place // BLOCK + 1)
    offset = row * heads.row_apart + head * heads.key_heads // heads.heads * heads.head_apart
    keys, values = moved(heads.keys, offset), moved(heads.values, offset)
    query = moved(heads.queries, ((row * trees.nodes + node) * heads.heads + head) * width)
    item = _item(trees, heads, row, node, head, span)
    for block in range(begin, end):
        of_node = (row * trees.nodes + node) * trees.tail + (block - first_block) * BLOCK
        slots = moved(trees.slots, of_node)
        count = min(BLOCK, place - block * BLOCK + 1)
        hidden = max(0, seen - block * BLOCK)
        for start in range(0, count, 16):
            dots_of_slots(
                keys, width, moved(slots, start), query, width, width, moved(sums.scores, start), BLOCK
            )
        decay = soften_block(sums.scores, hidden, count, heads.scale, moved(sums.states, 2 * item))
        put(sums.decays, 0, decay)
        for part in range(0, width, PART):
            totals = moved(sums.totals, item * width + part)
            weigh_slots(
                sums.scores, moved(values, part), width, slots, hidden, count, sums.decays, totals, width
            )
