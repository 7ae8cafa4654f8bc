"""Attention of draft trees behind a cache: blocks of keys at fixed places, added up in the order of the text.

A node sees its row's part of the cache and the path above it. Keys are taken block by block, as the places of
the text count them: those of the cache are shared by all nodes, a node's last ones are looked up in the slot
table. So what comes of a node does not depend on where in the cache its path lies, nor on what else is in
the tree: the same text gives the same bits (split keys as in Flash-Decoding, softmax as in FlashAttention).
"""

from typing import Any, NamedTuple

import numpy as np

from lookahead.backends.cpu.kernels.blocks import (
    BLOCK,
    HIDDEN,
    PART,
    QUERIES,
    pack_keys,
    pack_values,
    score_all,
    score_one,
    soften_block,
    weigh_all,
    weigh_all_twice,
    weigh_one,
    weigh_one_twice,
)
from lookahead.backends.cpu.kernels.pointers import exponential as exponential_of
from lookahead.backends.cpu.kernels.pointers import (
    int_pointer,
    integer_at,
    moved,
    number_at,
    put,
    put_integer,
)
from lookahead.backends.cpu.kernels.products import share_of
from lookahead.jit import lean_kernel, pointer_kernel

SPAN = 512
"""Places of the text that one piece of work covers; the spans of a node are added up at the end."""
PIECE = 32
"""Queries that one piece of work has at most, unless one node has more."""
_BLOCKS_OF_SPAN = SPAN // BLOCK


class Trees(NamedTuple):
    """The draft trees of a forward pass, as one layer sees them; pointers are to int64.

    Attributes:
        rows: Rows of the forward pass.
        nodes: Nodes of each row.
        cache_rows: [rows], the row of the cache that holds each row.
        lengths: [rows], slots that hold each row's text, padding included.
        depths: [rows, nodes].
        firsts: [rows, nodes], the first place that each node sees.
        slots: [rows, nodes, tail], the slots of the places behind the row's last full block.
        tail: A multiple of `BLOCK`.
        spans: Spans that hold all places.
    """

    rows: int
    nodes: int
    cache_rows: Any
    lengths: Any
    depths: Any
    firsts: Any
    slots: Any
    tail: int
    spans: int


class Heads(NamedTuple):
    """What the attention of one layer reads.

    Attributes:
        queries: pointer to [rows, nodes, heads, width].
        keys: pointer to a layer of the cache, [cache rows, key heads, slots, width], the last two contiguous.
        values: likewise.
        row_stride: elements between two rows of the cache.
        head_stride: elements between two heads of the cache.
        heads: of queries.
        key_heads: of keys and values.
        width: of a head.
        scale: factor on the scores.
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


class Sums(NamedTuple):
    """Weighted values that are not yet divided, and what a thread needs to add to them.

    Attributes:
        totals: float32 [rows, nodes, heads, spans, width].
        states: float32 [rows, nodes, heads, spans, 2], the largest score and the sum of weights.
        scores: float32 [QUERIES, BLOCK], each thread's own, as all that follows.
        decays: float32 [QUERIES].
        keys: words of a block's keys, packed.
        values: words of a block's values, packed.
        items: int64, which queries are being worked on: their places among [rows, nodes, heads].
        sums: int64, where their totals are: their places among [rows, nodes, heads, spans].
        slots: int64 [BLOCK], those of a block that all nodes share.
    """

    totals: Any
    states: Any
    scores: Any
    decays: Any
    keys: Any
    values: Any
    items: Any
    sums: Any
    slots: Any


@lean_kernel
def max_queries(heads: int, key_heads: int) -> int:
    """Return how many queries a piece of work has at most."""
    return max(PIECE, heads // key_heads)


_FIXED = QUERIES * BLOCK + BLOCK
"""Numbers of a thread's scratch before a block's packed keys: scores, decays and room up to the next line."""


@pointer_kernel
def sums_of_thread(totals: Any, states: Any, heads: Heads, scratch: Any, integers: int) -> Sums:
    """Return the sums with what a thread has for itself.

    Args:
        totals: see `Sums`.
        states: see `Sums`.
        heads: the layer's.
        scratch: pointer to float32 [attention_scratch(width)].
        integers: address of int64 [attention_integers(heads, key heads)].
    """
    most = max_queries(heads.heads, heads.key_heads)
    return Sums(
        totals,
        states,
        scratch,
        moved(scratch, QUERIES * BLOCK),
        moved(scratch, _FIXED),
        moved(scratch, _FIXED + BLOCK * heads.width),
        int_pointer(integers),
        int_pointer(integers + 8 * most),
        int_pointer(integers + 16 * most),
    )


def attention_scratch(width: int) -> int:
    """Return how many float32 numbers a thread needs for attention with heads of a width."""
    return _FIXED + 2 * BLOCK * width


def attention_integers(heads: int, key_heads: int) -> int:
    """Return how many int64 numbers a thread needs for attention."""
    return 2 * int(max_queries(heads, key_heads)) + BLOCK


class Piece(NamedTuple):
    """A piece of work: some nodes of a row, the queries of one key head, a span of places.

    Attributes:
        row: of the batch.
        key_head: which.
        span: which.
        first: the first node.
        last: the node behind the last.
    """

    row: int
    key_head: int
    span: int
    first: int
    last: int


@pointer_kernel
def attend(trees: Trees, heads: Heads, sums: Sums, member: int, members: int) -> None:
    """Do a member's share of a layer's attention; `sums` is complete when all members have done theirs."""
    together = max(1, PIECE * heads.key_heads // heads.heads)
    groups = (trees.nodes + together - 1) // together
    pieces = trees.rows * trees.spans * heads.key_heads * groups
    first_piece, end_piece = share_of(pieces, member, members)
    for number in range(first_piece, end_piece):
        group, rest = number % groups, number // groups
        key_head, rest = rest % heads.key_heads, rest // heads.key_heads
        first, last = share_of(trees.nodes, group, groups)
        piece = Piece(rest // trees.spans, key_head, rest % trees.spans, first, last)
        _start(trees, heads, sums, piece)
        _attend_to_shared(trees, heads, sums, piece)
        for node in range(first, last):
            _attend_to_path(trees, heads, sums, piece, node)


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
def _first_seen(trees: Trees, row: int, node: int) -> int:
    """Return the first place that a node sees."""
    first: int = integer_at(trees.firsts, row * trees.nodes + node)
    return first


@pointer_kernel
def _list_queries(trees: Trees, heads: Heads, sums: Sums, piece: Piece, first: int, last: int) -> int:
    """List a piece's queries of some nodes; return how many there are."""
    of_key, count = heads.heads // heads.key_heads, 0
    for node in range(first, last):
        for head in range(piece.key_head * of_key, (piece.key_head + 1) * of_key):
            item = (piece.row * trees.nodes + node) * heads.heads + head
            put_integer(sums.items, count, item)
            put_integer(sums.sums, count, item * trees.spans + piece.span)
            count += 1
    return count


@pointer_kernel
def _start(trees: Trees, heads: Heads, sums: Sums, piece: Piece) -> None:
    """Begin a piece's sums with nothing."""
    for query in range(_list_queries(trees, heads, sums, piece, piece.first, piece.last)):
        at = integer_at(sums.sums, query)
        put(sums.states, 2 * at, np.float32(HIDDEN))
        put(sums.states, 2 * at + 1, np.float32(0.0))
        for index in range(heads.width):
            put(sums.totals, at * heads.width + index, np.float32(0.0))


@pointer_kernel
def _attend_to_shared(trees: Trees, heads: Heads, sums: Sums, piece: Piece) -> None:
    """Weigh, for all nodes of a piece, the full blocks of its span that the cache holds."""
    seen = _first_seen(trees, piece.row, piece.first)
    for node in range(piece.first + 1, piece.last):
        here = _first_seen(trees, piece.row, node)
        seen = min(seen, here)
    begin = max(piece.span * _BLOCKS_OF_SPAN, seen // BLOCK)
    end = min((piece.span + 1) * _BLOCKS_OF_SPAN, integer_at(trees.lengths, piece.row) // BLOCK)
    for block in range(begin, end):
        for key in range(BLOCK):
            put_integer(sums.slots, key, block * BLOCK + key)
        first = max(0, seen - block * BLOCK)
        _weigh_block(trees, heads, sums, piece, piece.first, piece.last, block, sums.slots, first, BLOCK)


@pointer_kernel
def _attend_to_path(trees: Trees, heads: Heads, sums: Sums, piece: Piece, node: int) -> None:
    """Weigh a node's last blocks in a span: the cache's end and the path above the node, by their slots."""
    place, seen = _place(trees, piece.row, node), _first_seen(trees, piece.row, node)
    first_block = integer_at(trees.lengths, piece.row) // BLOCK
    begin = max(piece.span * _BLOCKS_OF_SPAN, first_block, seen // BLOCK)
    end = min((piece.span + 1) * _BLOCKS_OF_SPAN, place // BLOCK + 1)
    for block in range(begin, end):
        at = (piece.row * trees.nodes + node) * trees.tail + (block - first_block) * BLOCK
        first, count = max(0, seen - block * BLOCK), min(BLOCK, place - block * BLOCK + 1)
        slots = moved(trees.slots, at)
        _weigh_block(trees, heads, sums, piece, node, node + 1, block, slots, first, count)


@pointer_kernel
def _weigh_block(
    trees: Trees,
    heads: Heads,
    sums: Sums,
    piece: Piece,
    first_node: int,
    last_node: int,
    block: int,
    slots: Any,
    first: int,
    end: int,
) -> None:
    """Add a block's values, those of its keys from `first` up to `end`, to the sums of some nodes."""
    width = heads.width
    offset = integer_at(trees.cache_rows, piece.row) * heads.row_stride + piece.key_head * heads.head_stride
    pack_keys(moved(heads.keys, offset), width, slots, first, end, sums.keys)
    pack_values(moved(heads.values, offset), width, slots, first, end, sums.values)
    count = _list_queries(trees, heads, sums, piece, first_node, last_node)
    of_key, query = heads.heads // heads.key_heads, 0
    while query < count:
        together = QUERIES if query + QUERIES <= count else 1
        items = moved(sums.items, query)
        if together == QUERIES:
            score_all(heads.queries, items, width, sums.keys, sums.scores)
        else:
            score_one(heads.queries, items, width, sums.keys, sums.scores)
        for index in range(together):
            node = first_node + (query + index) // of_key
            hidden = max(first, _first_seen(trees, piece.row, node) - block * BLOCK)
            state = moved(sums.states, 2 * integer_at(sums.sums, query + index))
            scores = moved(sums.scores, index * BLOCK)
            put(sums.decays, index, soften_block(scores, hidden, end, heads.scale, state, heads.keys))
        _weigh(heads, sums, query, together, first, end)
        query += together


@pointer_kernel
def _weigh(heads: Heads, sums: Sums, query: int, together: int, first: int, end: int) -> None:
    """Add the packed values to the totals of one query, or of as many as are worked on at once."""
    width, where, like = heads.width, moved(sums.sums, query), heads.keys
    step = 2 * PART if width % (2 * PART) == 0 else PART
    for part in range(0, width, step):
        values, totals = moved(sums.values, part), moved(sums.totals, part)
        if together == QUERIES and step > PART:
            weigh_all_twice(sums.scores, values, width, first, end, sums.decays, totals, where, width, like)
        elif together == QUERIES:
            weigh_all(sums.scores, values, width, first, end, sums.decays, totals, where, width, like)
        elif step > PART:
            weigh_one_twice(sums.scores, values, width, first, end, sums.decays, totals, where, width, like)
        else:
            weigh_one(sums.scores, values, width, first, end, sums.decays, totals, where, width, like)
