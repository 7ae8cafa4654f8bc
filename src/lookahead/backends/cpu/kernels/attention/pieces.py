"""Attention of draft trees and prompts over the KV cache, block by block in the order of the text.

Blocks and spans begin at fixed places of the row's text, wherever the cache keeps those places. So a node's
result is the same bits in any tree, next to any rows, in any row of the cache, on any number of threads, and
whether its prompt was read in one chunk or in many.

    a row with 700 places in the cache and a tree of depth 2; blocks of 64 places, spans of 512

    span    |          0            |           1             |
    block   |  0    1   ...    7    |   8     9    |    10    |
    place     0-63         448-511   512-575 -639    640-702
            |<------- full blocks: slot = start + place ------>|<- 640-699 cached, 700-702 the node's own path

Places are counted from the row's first token, which is in slot `start`: padding is no text. Full blocks are
packed once and scored for all nodes of a piece of work. The last blocks differ from node to node: the slot
table says where their places lie. Nodes that are a chain, as those of a prompt, lie in the order of the text,
and all blocks are shared.

Each span has its own softmax, a largest score, a sum of weights and weighted values, and the spans are added
up in order (split keys as in Flash-Decoding, softmax as in FlashAttention). A piece of a prompt does so
itself; of a few nodes, each span is a piece of its own, and `gather` adds them up.
"""

from typing import Any, NamedTuple

import numpy as np

from lookahead.backends.cpu.kernels.amx import HAS_TILES, ROWS
from lookahead.backends.cpu.kernels.attention.block_sums import (
    add_block,
    begin_span,
    clear_sums,
    copy_queries,
    set_bounds,
    write_rows,
)
from lookahead.backends.cpu.kernels.attention.blocks import BLOCK
from lookahead.backends.cpu.kernels.attention.lanes import LN2, clear_lanes, merge_lanes
from lookahead.backends.cpu.kernels.attention.workspace import MAX_PIECE, Heads, Sums
from lookahead.backends.cpu.kernels.pointers import exponential as exponential_of
from lookahead.backends.cpu.kernels.pointers import (
    larger,
    load_float,
    load_int,
    offset,
    store_float,
    store_int,
    take_next,
)
from lookahead.backends.cpu.kernels.rows import add_scaled_row, copy_row, is_finite_row
from lookahead.jit import pointer_kernel

SPAN = 512
"""Places that a softmax of its own covers."""
PIECE = 32
"""Maximum number of queries in a piece of work of a few nodes, unless one node has more."""
MIN_PROMPT = 32
"""Nodes of a chain from which on a piece of work adds up all spans."""
_BLOCKS_OF_SPAN = SPAN // BLOCK
_LN2 = np.float32(LN2)


class Trees(NamedTuple):
    """The draft trees of a forward pass, as one layer sees them; pointers are to int64.

    Attributes:
        rows: Rows of the forward pass.
        begins: [rows + 1], the first node of each row among all nodes, and the number of nodes.
        cache_rows: [rows], the row of the cache that holds each row.
        lengths: [rows], slots that hold each row's text, padding included.
        starts: [rows], the slot of each row's first token.
        chains: [rows], 1 for nodes that are a chain, each the parent of the next, else 0.
        places: [nodes], each node's own place in its row's text.
        firsts: [nodes], the first place that each node sees.
        slots: [nodes, tail], the slots of the places after the row's last full block; not read for chains.
        tail: A multiple of `BLOCK`.
        spans: Spans that hold all places of rows of a few nodes.
    """

    rows: int
    begins: Any
    cache_rows: Any
    lengths: Any
    starts: Any
    chains: Any
    places: Any
    firsts: Any
    slots: Any
    tail: int
    spans: int


class Piece(NamedTuple):
    """A piece of work: some nodes of a row and the queries of one key head.

    Attributes:
        row: Index of the row in the forward pass.
        key_head: Index.
        first: The first node, among all nodes.
        last: The node after the last.
    """

    row: int
    key_head: int
    first: int
    last: int


@pointer_kernel
def _is_prompt(trees: Trees, row: int) -> bool:
    """Return whether a row's pieces of work add up all spans."""
    nodes: int = load_int(trees.begins, row + 1) - load_int(trees.begins, row)
    is_chain: bool = load_int(trees.chains, row) != 0
    return nodes >= MIN_PROMPT and is_chain


@pointer_kernel
def attend(
    trees: Trees, heads: Heads, sums: Sums, out: Any, taken: Any, takes: bool, worker: int, workers: int
) -> None:
    """Do a worker's share of a layer's attention.

    The results of prompts, [nodes, heads, width], are written to `out`, the sums of other rows to `sums`. If
    `takes`, the next piece that no worker has taken is the worker's, else pieces are dealt out in turns.
    """
    number, own = 0, take_next(taken, 0) if takes else worker
    for row in range(trees.rows):
        begin, end = load_int(trees.begins, row), load_int(trees.begins, row + 1)
        is_prompt = _is_prompt(trees, row)
        queries = MAX_PIECE if is_prompt else PIECE
        nodes_of_piece = max(1, queries * heads.key_heads // heads.heads)
        groups = (end - begin + nodes_of_piece - 1) // nodes_of_piece
        spans = 1 if is_prompt else trees.spans
        for item in range(spans * heads.key_heads * groups):
            if number == own:
                own = take_next(taken, 0) if takes else own + workers
                group, rest = item % groups, item // groups
                first = begin + (end - begin) * group // groups
                last = begin + (end - begin) * (group + 1) // groups
                piece = Piece(row, rest % heads.key_heads, first, last)
                if is_prompt:
                    _attend_to_prompt(trees, heads, sums, piece, out)
                else:
                    _attend_to_one_span(trees, heads, sums, piece, rest // heads.key_heads)
            number += 1


@pointer_kernel
def gather(trees: Trees, heads: Heads, sums: Sums, out: Any, worker: int, workers: int) -> None:
    """Add up the spans of rows that are no prompts and write a worker's share of their results."""
    width, spans = heads.width, trees.spans
    for row in range(trees.rows):
        if not _is_prompt(trees, row):
            begin = load_int(trees.begins, row)
            items = (load_int(trees.begins, row + 1) - begin) * heads.heads
            for number in range(items * worker // workers, items * (worker + 1) // workers):
                item = begin * heads.heads + number
                node = item // heads.heads
                clear_sums(sums.merged_states, sums.merged, 1, width)
                first_span, last_span = (
                    load_int(trees.firsts, node) // SPAN,
                    load_int(trees.places, node) // SPAN,
                )
                for span in range(first_span, last_span + 1):
                    at = item * spans + span
                    of_span, states = offset(sums.totals, at * width), offset(sums.states, 2 * at)
                    _merge(sums.merged_states, sums.merged, states, of_span, width)
                _write_result(sums.merged_states, sums.merged, offset(out, item * width), width)


@pointer_kernel
def _attend_to_prompt(trees: Trees, heads: Heads, sums: Sums, piece: Piece, out: Any) -> None:
    """Write the results of a piece of a prompt."""
    width, of_key = heads.width, heads.heads // heads.key_heads
    queries = (piece.last - piece.first) * of_key
    copy_queries(heads, sums, piece.key_head, piece.first, piece.last)
    _begin_merging(heads, sums, queries)
    begin = load_int(trees.firsts, piece.first) // SPAN
    end = load_int(trees.places, piece.last - 1) // SPAN + 1
    for span in range(begin, end):
        begin_span(heads, sums, queries)
        _add_span(trees, heads, sums, piece, span)
        _merge_span(trees, heads, sums, piece, span)
    if HAS_TILES and heads.uses_tiles:
        merged = sums.merged_lane_states, sums.merged_lanes
        write_rows(heads, merged[0], merged[1], queries, sums.merged_states, sums.merged)
    for query in range(queries):
        item = (piece.first + query // of_key) * heads.heads + piece.key_head * of_key + query % of_key
        states, totals = offset(sums.merged_states, 2 * query), offset(sums.merged, query * width)
        _write_result(states, totals, offset(out, item * width), width)


@pointer_kernel
def _begin_merging(heads: Heads, sums: Sums, queries: int) -> None:
    """Set the sums of all spans to nothing."""
    width = heads.width
    if not (HAS_TILES and heads.uses_tiles):
        clear_sums(sums.merged_states, sums.merged, queries, width)
        return
    for tile in range((queries + ROWS - 1) // ROWS):
        states, totals = offset(sums.merged_lane_states, 2 * tile * ROWS), tile * ROWS * width
        clear_lanes(states, offset(sums.merged_lanes, totals), width)


@pointer_kernel
def _merge_span(trees: Trees, heads: Heads, sums: Sums, piece: Piece, span: int) -> None:
    """Add a span's sums to those of all spans, of the queries that see places of it."""
    width, of_key = heads.width, heads.heads // heads.key_heads
    queries = (piece.last - piece.first) * of_key
    for query in range(queries):
        node = piece.first + query // of_key
        sees = load_int(trees.firsts, node) // SPAN <= span <= load_int(trees.places, node) // SPAN
        store_int(sums.ends, query, int(sees))
        if sees and not (HAS_TILES and heads.uses_tiles):
            states, totals = offset(sums.merged_states, 2 * query), offset(sums.merged, query * width)
            added = offset(sums.span_states, 2 * query), offset(sums.span_totals, query * width)
            _merge(states, totals, added[0], added[1], width)
    if HAS_TILES and heads.uses_tiles:
        for tile in range((queries + ROWS - 1) // ROWS):
            states, totals = 2 * tile * ROWS, tile * ROWS * width
            merge_lanes(
                offset(sums.merged_lane_states, states),
                offset(sums.merged_lanes, totals),
                offset(sums.lane_states, states),
                offset(sums.lane_totals, totals),
                offset(sums.ends, tile * ROWS),
                width,
            )


@pointer_kernel
def _attend_to_one_span(trees: Trees, heads: Heads, sums: Sums, piece: Piece, span: int) -> None:
    """Write the sums of one span of a piece, for `gather`."""
    width, of_key = heads.width, heads.heads // heads.key_heads
    queries = (piece.last - piece.first) * of_key
    copy_queries(heads, sums, piece.key_head, piece.first, piece.last)
    begin_span(heads, sums, queries)
    _add_span(trees, heads, sums, piece, span)
    if HAS_TILES and heads.uses_tiles:
        write_rows(heads, sums.lane_states, sums.lane_totals, queries, sums.span_states, sums.span_totals)
        for query in range(queries):  # the largest scores of lanes are those of powers of two
            store_float(sums.span_states, 2 * query, load_float(sums.span_states, 2 * query) * _LN2)
    for query in range(queries):
        item = (piece.first + query // of_key) * heads.heads + piece.key_head * of_key + query % of_key
        at = item * trees.spans + span
        for index in range(2):
            store_float(sums.states, 2 * at + index, load_float(sums.span_states, 2 * query + index))
        copy_row(offset(sums.span_totals, query * width), width, offset(sums.totals, at * width))


@pointer_kernel
def _merge(states: Any, totals: Any, more_states: Any, more_totals: Any, width: int) -> None:
    """Add the sums of a later span to a query's sums."""
    before, top = load_float(states, 0), load_float(more_states, 0)
    after = larger(before, top)
    kept, added = exponential_of(before - after), exponential_of(top - after)
    store_float(states, 0, after)
    store_float(states, 1, load_float(states, 1) * kept + load_float(more_states, 1) * added)
    add_scaled_row(totals, kept, more_totals, added, width)


@pointer_kernel
def _write_result(states: Any, totals: Any, out: Any, width: int) -> None:
    """Write a query's weighted values; as in torch's attention 0 if its scores are all minus infinity."""
    weight = load_float(states, 1)
    scale = np.float32(1.0) / weight if weight != np.float32(0.0) else np.float32(0.0)
    for index in range(width):
        store_float(out, index, load_float(totals, index) * scale)


@pointer_kernel
def _add_span(trees: Trees, heads: Heads, sums: Sums, piece: Piece, span: int) -> None:
    """Add the blocks of a span that the nodes of a piece see to the piece's sums."""
    if load_int(trees.chains, piece.row) != 0:
        _add_blocks_of_chain(trees, heads, sums, piece, span)
        return
    _add_full_blocks(trees, heads, sums, piece, span)
    for node in range(piece.first, piece.last):
        _add_last_blocks(trees, heads, sums, piece, node, span)


@pointer_kernel
def _add_blocks_of_chain(trees: Trees, heads: Heads, sums: Sums, piece: Piece, span: int) -> None:
    """Add a span's blocks for a piece of a chain, whose text lies in order in the cache."""
    begin = max(span * _BLOCKS_OF_SPAN, load_int(trees.firsts, piece.first) // BLOCK)
    end = min((span + 1) * _BLOCKS_OF_SPAN, load_int(trees.places, piece.last - 1) // BLOCK + 1)
    for block in range(begin, end):
        first, last = piece.first, piece.last
        while load_int(trees.places, first) < block * BLOCK:  # the later nodes of a chain see later places
            first += 1
        while load_int(trees.firsts, last - 1) >= (block + 1) * BLOCK:
            last -= 1
        _add_block_in_order(trees, heads, sums, piece, first, last, block)


@pointer_kernel
def _add_full_blocks(trees: Trees, heads: Heads, sums: Sums, piece: Piece, span: int) -> None:
    """Add, for all nodes of a piece, the full blocks of a span that the cache holds."""
    seen = load_int(trees.firsts, piece.first)
    for node in range(piece.first + 1, piece.last):
        seen = min(seen, load_int(trees.firsts, node))
    begin = max(span * _BLOCKS_OF_SPAN, seen // BLOCK)
    text = load_int(trees.lengths, piece.row) - load_int(trees.starts, piece.row)
    end = min((span + 1) * _BLOCKS_OF_SPAN, text // BLOCK)
    for block in range(begin, end):
        _add_block_in_order(trees, heads, sums, piece, piece.first, piece.last, block)


@pointer_kernel
def _add_block_in_order(
    trees: Trees, heads: Heads, sums: Sums, piece: Piece, first: int, last: int, block: int
) -> None:
    """Add a block whose places lie in order in the cache to the sums of some nodes of a piece.

    What a node does not see may be NaN, and a weight of 0 times NaN is NaN. So a block that some nodes do not
    see as a whole, with a value that is not finite, is added node by node.
    """
    start = load_int(trees.starts, piece.row) + block * BLOCK
    for key in range(BLOCK):
        store_int(sums.slots, key, start + key)
    low, high, is_shared = set_bounds(trees, heads, sums, piece, first, last, block)
    at = load_int(trees.cache_rows, piece.row) * heads.row_stride + piece.key_head * heads.head_stride
    if not is_shared:
        values = offset(heads.values, at + (start + low) * heads.width)
        is_shared = is_finite_row(values, max(0, high - low) * heads.width)
    of_key = heads.heads // heads.key_heads
    queries, begin, end = (
        (piece.last - piece.first) * of_key,
        (first - piece.first) * of_key,
        (last - piece.first) * of_key,
    )
    if is_shared:
        add_block(heads, sums, at, queries, begin, end, sums.slots, True)
        return
    for node in range(first, last):
        set_bounds(
            trees, heads, sums, piece, node, node + 1, block
        )  # `add_block` may change those of neighbours
        begin = (node - piece.first) * of_key
        add_block(heads, sums, at, queries, begin, begin + of_key, sums.slots, True)


@pointer_kernel
def _add_last_blocks(trees: Trees, heads: Heads, sums: Sums, piece: Piece, node: int, span: int) -> None:
    """Add a node's last blocks in a span, the end of the cached text and the node's path, by their slots."""
    place, seen = load_int(trees.places, node), load_int(trees.firsts, node)
    text = load_int(trees.lengths, piece.row) - load_int(trees.starts, piece.row)
    begin_block = max(span * _BLOCKS_OF_SPAN, text // BLOCK, seen // BLOCK)
    end_block = min((span + 1) * _BLOCKS_OF_SPAN, place // BLOCK + 1)
    of_key = heads.heads // heads.key_heads
    at = load_int(trees.cache_rows, piece.row) * heads.row_stride + piece.key_head * heads.head_stride
    for block in range(begin_block, end_block):
        slots = offset(trees.slots, node * trees.tail + (block - text // BLOCK) * BLOCK)
        set_bounds(trees, heads, sums, piece, node, node + 1, block)
        begin = (node - piece.first) * of_key
        add_block(heads, sums, at, (piece.last - piece.first) * of_key, begin, begin + of_key, slots, False)
