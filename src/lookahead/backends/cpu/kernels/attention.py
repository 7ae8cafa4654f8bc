"""Attention of draft trees over the KV cache, block by block in the order of the text.

Blocks and spans begin at fixed places of the row's text, wherever the cache keeps those places. So a node's
result is the same bits in any tree, next to any rows, in any row of the cache, on any number of threads.

    a row with 700 places in the cache and a tree of depth 2; blocks of 64 places, spans of 512

    span    |          0            |           1             |   one piece of work covers one span
    block   |  0    1   ...    7    |   8     9    |    10    |
    place     0-63         448-511   512-575 -639    640-702
            |<------- full blocks: slot = place ------>|<- 640-699 cached, 700-702 the node's own path

Full blocks are packed once and scored for all nodes of a piece. The last blocks differ from node to node: the
slot table says where their places lie. Each span has its own softmax, a largest score, a sum of weights and
weighted values; `gather` adds the spans up (split keys as in Flash-Decoding, softmax as in FlashAttention).
"""

from typing import Any, NamedTuple

import numpy as np

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
from lookahead.backends.cpu.kernels.pointers import exponential as exponential_of
from lookahead.backends.cpu.kernels.pointers import (
    int_pointer,
    load_float,
    load_int,
    offset,
    store_float,
    store_int,
)
from lookahead.backends.cpu.kernels.products import share_of
from lookahead.jit import pointer_kernel

SPAN = 512
"""Places that one piece of work covers."""
PIECE = 32
"""Maximum number of queries in a piece of work, unless one node has more."""
_BLOCKS_OF_SPAN = SPAN // BLOCK


class Trees(NamedTuple):
    """The draft trees of a forward pass, as one layer sees them; pointers are to int64.

    Attributes:
        rows: Rows of the forward pass.
        nodes: Nodes of each row.
        cache_rows: [rows], the row of the cache that holds each row.
        lengths: [rows], slots that hold each row's text, padding included.
        places: [rows, nodes], each node's own place in its row's text.
        firsts: [rows, nodes], the first place that each node sees.
        slots: [rows, nodes, tail], the slots of the places after the row's last full block.
        tail: A multiple of `BLOCK`.
        spans: Spans that hold all places.
    """

    rows: int
    nodes: int
    cache_rows: Any
    lengths: Any
    places: Any
    firsts: Any
    slots: Any
    tail: int
    spans: int


class Heads(NamedTuple):
    """What the attention of one layer reads.

    Attributes:
        queries: Pointer to [rows, nodes, heads, width].
        keys: Pointer to a layer of the cache, [cache rows, key heads, slots, width], the last two contiguous.
        values: Likewise.
        row_stride: Elements between two rows of the cache.
        head_stride: Elements between two heads of the cache.
        heads: Query heads.
        key_heads: Key and value heads.
        width: Of a head.
        scale: Factor on the scores.
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
    """The sums of all threads, and one thread's workspace.

    Attributes:
        totals: float32 [rows, nodes, heads, spans, width], weighted values, not yet divided.
        states: float32 [rows, nodes, heads, spans, 2], the largest score and the sum of weights.
        scores: float32 [QUERIES, BLOCK]; this and all that follows belongs to one thread.
        decays: float32 [QUERIES].
        keys: Words of a block's keys, packed.
        values: Words of a block's values, packed.
        query_indices: int64, the queries of the current piece: indices into [rows, nodes, heads].
        total_indices: int64, their totals: indices into [rows, nodes, heads, spans].
        slots: int64 [BLOCK], the slots of a full block.
    """

    totals: Any
    states: Any
    scores: Any
    decays: Any
    keys: Any
    values: Any
    query_indices: Any
    total_indices: Any
    slots: Any


@pointer_kernel
def max_queries(heads: int, key_heads: int) -> int:
    """Return the maximum number of queries in a piece of work."""
    return max(PIECE, heads // key_heads)


_FIXED = QUERIES * BLOCK + BLOCK
"""Floats of a thread's scratch before the packed keys: scores and decays, filled up to a cache line."""


@pointer_kernel
def sums_of_thread(totals: Any, states: Any, heads: Heads, scratch: Any, integers: int) -> Sums:
    """Return the sums with a thread's workspace.

    Args:
        totals: See `Sums`.
        states: See `Sums`.
        heads: The layer's.
        scratch: Pointer to float32 [attention_scratch(width)].
        integers: Address of int64 [attention_integers(heads, key heads)].
    """
    queries = max_queries(heads.heads, heads.key_heads)
    return Sums(
        totals,
        states,
        scratch,
        offset(scratch, QUERIES * BLOCK),
        offset(scratch, _FIXED),
        offset(scratch, _FIXED + BLOCK * heads.width),
        int_pointer(integers),
        int_pointer(integers + 8 * queries),
        int_pointer(integers + 16 * queries),
    )


def attention_scratch(width: int) -> int:
    """Return how many float32 of scratch a thread needs for heads of a width."""
    return _FIXED + 2 * BLOCK * width


def attention_integers(heads: int, key_heads: int) -> int:
    """Return how many int64 of scratch a thread needs."""
    return 2 * int(max_queries(heads, key_heads)) + BLOCK


class Piece(NamedTuple):
    """A piece of work: some nodes of a row, the queries of one key head, one span.

    Attributes:
        row: Index of the row in the forward pass.
        key_head: Index.
        span: Index.
        first: The first node.
        last: The node after the last.
    """

    row: int
    key_head: int
    span: int
    first: int
    last: int


@pointer_kernel
def attend(trees: Trees, heads: Heads, sums: Sums, worker: int, workers: int) -> None:
    """Do a worker's share of a layer's attention; `sums` is complete when all workers are done."""
    nodes_of_piece = max(1, PIECE * heads.key_heads // heads.heads)
    groups = (trees.nodes + nodes_of_piece - 1) // nodes_of_piece
    pieces = trees.rows * trees.spans * heads.key_heads * groups
    first_piece, end_piece = share_of(pieces, worker, workers)
    for number in range(first_piece, end_piece):
        group, rest = number % groups, number // groups
        key_head, rest = rest % heads.key_heads, rest // heads.key_heads
        first, last = share_of(trees.nodes, group, groups)
        piece = Piece(rest // trees.spans, key_head, rest % trees.spans, first, last)
        _clear(trees, heads, sums, piece)
        _attend_to_full_blocks(trees, heads, sums, piece)
        for node in range(first, last):
            _attend_to_last_blocks(trees, heads, sums, piece, node)


@pointer_kernel
def gather(trees: Trees, heads: Heads, sums: Sums, out: Any, worker: int, workers: int) -> None:
    """Add the spans up and write a worker's share of the results, [rows, nodes, heads, width].

    A result whose scores are all minus infinity is 0, as torch's attention gives it.
    """
    first, last = share_of(trees.rows * trees.nodes * heads.heads, worker, workers)
    width, spans = heads.width, trees.spans
    for item in range(first, last):
        states = offset(sums.states, item * spans * 2)
        totals = offset(sums.totals, item * spans * width)
        top = load_float(states, 0)
        for span in range(1, spans):
            top = max(top, load_float(states, 2 * span))
        weight = np.float32(0.0)
        for span in range(spans):
            share = exponential_of(load_float(states, 2 * span) - top)
            weight += share * load_float(states, 2 * span + 1)
            store_float(states, 2 * span, share)
        scale = np.float32(1.0) / weight if weight != np.float32(0.0) else np.float32(0.0)
        for index in range(width):
            total = np.float32(0.0)
            for span in range(spans):
                total += load_float(states, 2 * span) * load_float(totals, span * width + index)
            store_float(out, item * width + index, total * scale)


@pointer_kernel
def _place(trees: Trees, row: int, node: int) -> int:
    """Return a node's place in its row's text."""
    place: int = load_int(trees.places, row * trees.nodes + node)
    return place


@pointer_kernel
def _first_seen(trees: Trees, row: int, node: int) -> int:
    """Return the first place that a node sees."""
    first: int = load_int(trees.firsts, row * trees.nodes + node)
    return first


@pointer_kernel
def _list_queries(trees: Trees, heads: Heads, sums: Sums, piece: Piece, first: int, last: int) -> int:
    """List the queries of some nodes of a piece; return how many there are."""
    of_key, count = heads.heads // heads.key_heads, 0
    for node in range(first, last):
        for head in range(piece.key_head * of_key, (piece.key_head + 1) * of_key):
            item = (piece.row * trees.nodes + node) * heads.heads + head
            store_int(sums.query_indices, count, item)
            store_int(sums.total_indices, count, item * trees.spans + piece.span)
            count += 1
    return count


@pointer_kernel
def _clear(trees: Trees, heads: Heads, sums: Sums, piece: Piece) -> None:
    """Set a piece's sums to nothing."""
    for query in range(_list_queries(trees, heads, sums, piece, piece.first, piece.last)):
        at = load_int(sums.total_indices, query)
        store_float(sums.states, 2 * at, np.float32(MASKED_SCORE))
        store_float(sums.states, 2 * at + 1, np.float32(0.0))
        for index in range(heads.width):
            store_float(sums.totals, at * heads.width + index, np.float32(0.0))


@pointer_kernel
def _attend_to_full_blocks(trees: Trees, heads: Heads, sums: Sums, piece: Piece) -> None:
    """Add, for all nodes of a piece, the full blocks of its span that the cache holds.

    A block that some nodes do not see as a whole is added node by node: what a node does not see may be NaN,
    and a weight of 0 times NaN is NaN.
    """
    seen = _first_seen(trees, piece.row, piece.first)
    last_seen = seen
    for node in range(piece.first + 1, piece.last):
        here = _first_seen(trees, piece.row, node)
        seen, last_seen = min(seen, here), max(last_seen, here)
    begin = max(piece.span * _BLOCKS_OF_SPAN, seen // BLOCK)
    end = min((piece.span + 1) * _BLOCKS_OF_SPAN, load_int(trees.lengths, piece.row) // BLOCK)
    for block in range(begin, end):
        for key in range(BLOCK):
            store_int(sums.slots, key, block * BLOCK + key)
        if block * BLOCK >= last_seen:
            _attend_to_block(trees, heads, sums, piece, piece.first, piece.last, sums.slots, 0, BLOCK)
        else:
            for node in range(piece.first, piece.last):
                here = _first_seen(trees, piece.row, node)
                first = max(0, here - block * BLOCK)
                if first < BLOCK:
                    _attend_to_block(trees, heads, sums, piece, node, node + 1, sums.slots, first, BLOCK)


@pointer_kernel
def _attend_to_last_blocks(trees: Trees, heads: Heads, sums: Sums, piece: Piece, node: int) -> None:
    """Add a node's last blocks in a span, the end of the cached text and the node's path, by their slots."""
    place, seen = _place(trees, piece.row, node), _first_seen(trees, piece.row, node)
    first_block = load_int(trees.lengths, piece.row) // BLOCK
    begin = max(piece.span * _BLOCKS_OF_SPAN, first_block, seen // BLOCK)
    end = min((piece.span + 1) * _BLOCKS_OF_SPAN, place // BLOCK + 1)
    for block in range(begin, end):
        at = (piece.row * trees.nodes + node) * trees.tail + (block - first_block) * BLOCK
        first, count = max(0, seen - block * BLOCK), min(BLOCK, place - block * BLOCK + 1)
        slots = offset(trees.slots, at)
        _attend_to_block(trees, heads, sums, piece, node, node + 1, slots, first, count)


@pointer_kernel
def _attend_to_block(
    trees: Trees,
    heads: Heads,
    sums: Sums,
    piece: Piece,
    first_node: int,
    last_node: int,
    slots: Any,
    first: int,
    end: int,
) -> None:
    """Add the keys and values from `first` up to `end` of a block to the sums of some nodes; all see them."""
    width = heads.width
    at = load_int(trees.cache_rows, piece.row) * heads.row_stride + piece.key_head * heads.head_stride
    pack_keys(offset(heads.keys, at), width, slots, first, end, sums.keys)
    pack_values(offset(heads.values, at), width, slots, first, end, sums.values)
    count = _list_queries(trees, heads, sums, piece, first_node, last_node)
    query = 0
    while query < count:
        together = QUERIES if query + QUERIES <= count else 1
        items = offset(sums.query_indices, query)
        if together == QUERIES:
            score_all(heads.queries, items, width, sums.keys, sums.scores)
        else:
            score_one(heads.queries, items, width, sums.keys, sums.scores)
        for index in range(together):
            state = offset(sums.states, 2 * load_int(sums.total_indices, query + index))
            scores = offset(sums.scores, index * BLOCK)
            decay = softmax_block(scores, first, end, heads.scale, state, heads.keys)
            store_float(sums.decays, index, decay)
        _accumulate_values(heads, sums, query, together, first, end)
        query += together


@pointer_kernel
def _accumulate_values(heads: Heads, sums: Sums, query: int, together: int, first: int, end: int) -> None:
    """Add the packed values, weighted, to the totals of one query or of `QUERIES` together."""
    width, like, weights, decays = heads.width, heads.keys, sums.scores, sums.decays
    at = offset(sums.total_indices, query)
    step = 2 * PART if width % (2 * PART) == 0 else PART
    for part in range(0, width, step):
        values, totals = offset(sums.values, part), offset(sums.totals, part)
        if together == QUERIES and step > PART:
            accumulate_values_all_wide(weights, values, width, first, end, decays, totals, at, width, like)
        elif together == QUERIES:
            accumulate_values_all(weights, values, width, first, end, decays, totals, at, width, like)
        elif step > PART:
            accumulate_values_one_wide(weights, values, width, first, end, decays, totals, at, width, like)
        else:
            accumulate_values_one(weights, values, width, first, end, decays, totals, at, width, like)
