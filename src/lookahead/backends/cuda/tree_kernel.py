r"""The Triton kernels of tree attention: what a node sees is read on the device, the context is split.

    split 0         split 1         split 2
    a b c d e f g   h i j k l m n   o p | 0 1 2        text, then the tree's nodes, in blocks of the cache
         |               |              |
    partial sums    partial sums    partial sums       `attend_to_part`: one program per split and key head
         \_______________|______________/
                   the result                          `join_parts`: one program per query

Lengths, padding, depths and ancestors come from the packed trees, so nothing of them is an argument. A program
loops over the slots that hold something. So one launch serves any length of context.

Rows may be ragged: their queries then lie one row after the other, and a table of begins says where each row's
are and how many. NODES is the most nodes of a row. Programs of a row that has fewer have no queries, or fewer.

Triton compiles these functions; names in capitals are constants of a compiled variant.
"""

import triton
import triton.language as tl

# One argument per line would hide the code below.
# fmt: off


@triton.jit
def first_visible(place, padding, window, chunk, HAS_WINDOW: tl.constexpr, HAS_CHUNK: tl.constexpr):
    """Return the first place that a token at a place sees: the rule of `visibility.first_visible`."""
    first = padding + place * 0
    if HAS_WINDOW:
        first = tl.maximum(first, place - window + 1)
    if HAS_CHUNK:
        first = tl.maximum(first, (place - padding) // chunk * chunk + padding)
    return first


@triton.jit
def is_visible(slot, length, first, ancestors, tree, NODES: tl.constexpr):
    """Return which slots of a block each query sees, [queries, block]."""
    other = tl.minimum(tl.maximum(slot - length, 0), NODES - 1)  # the node in a slot of the tree
    is_tree = (slot >= length) & (slot < length + NODES)
    place = tl.where(is_tree, length + tl.load(tree + 2 * NODES + other), slot)
    is_ancestor = ((ancestors[:, None] >> other[None]) & 1) == 1
    seen = tl.where(is_tree[None], is_ancestor, (slot < length)[None])
    return seen & (place[None] >= first[:, None])


@triton.jit
def nodes_of(begins, row, NODES: tl.constexpr, HAS_BEGINS: tl.constexpr):
    """Return the index of a row's first query, and its number of nodes."""
    begin, count = row * 0, row * 0 + NODES
    if HAS_BEGINS:
        begin = tl.load(begins + row)
        count = tl.load(begins + row + 1) - begin
    return begin, count


@triton.jit
def attend_to_part(
    queries, keys, values, packed, row_table, block_table, begins, sums, tops, weights, scale, softcap, window, chunk,
    q_row, q_head, q_node, k_row, k_head, k_slot, v_row, v_head, v_slot, packed_row, blocks_row, key_heads,
    NODES: tl.constexpr, GROUP: tl.constexpr, KEY_WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr,
    KEY_LANES: tl.constexpr, VALUE_LANES: tl.constexpr, QUERIES: tl.constexpr, ALL_QUERIES: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_TOKENS: tl.constexpr, SPLITS: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
    HAS_WINDOW: tl.constexpr, HAS_CHUNK: tl.constexpr, HAS_ROW_TABLE: tl.constexpr, HAS_BLOCK_TABLE: tl.constexpr,
    HAS_BEGINS: tl.constexpr,
):
    """Attend with a tile of one key head's queries to one split of the slots; write unnormalised sums."""
    split, pair = tl.program_id(0), tl.program_id(1)
    query = tl.program_id(2) * QUERIES + tl.arange(0, QUERIES)
    row, head = pair // key_heads, pair % key_heads
    begin_node, count = nodes_of(begins, row, NODES, HAS_BEGINS)
    node, is_query = query % count, query < count * GROUP
    key_lane, value_lane = tl.arange(0, KEY_LANES), tl.arange(0, VALUE_LANES)
    tree = packed + row * packed_row
    length, padding = tl.load(tree + 4 * NODES), tl.load(tree + 4 * NODES + 1)
    ancestors = tl.load(tree + 3 * NODES + node)
    place = length + tl.load(tree + 2 * NODES + node)
    first = first_visible(place, padding, window, chunk, HAS_WINDOW, HAS_CHUNK)
    lowest = first_visible(length, padding, window, chunk, HAS_WINDOW, HAS_CHUNK)  # of node 0, and of all

    at = row * q_row + (head * GROUP + query // count)[:, None] * q_head + (begin_node + node)[:, None] * q_node
    is_element = is_query[:, None] & (key_lane < KEY_WIDTH)[None]
    q = tl.load(queries + at + key_lane[None], mask=is_element, other=0.0)
    top, weight = tl.full([QUERIES], -1e30, tl.float32), tl.zeros([QUERIES], tl.float32)
    total = tl.zeros([QUERIES, VALUE_LANES], tl.float32)
    end = tl.where(tl.program_id(2) * QUERIES < count * GROUP, length + count, 0)
    each = (tl.cdiv(end, BLOCK) - lowest // BLOCK + SPLITS - 1) // SPLITS
    begin = lowest // BLOCK + split * each
    for block in range(begin, tl.minimum(begin + each, tl.cdiv(end, BLOCK))):
        slot = block * BLOCK + tl.arange(0, BLOCK)
        seen = is_visible(slot, length, first, ancestors, tree, NODES) & is_query[:, None]
        # As wide as `slot`: caches have more than 2^31 elements.
        source_row, source_slot = row + slot * 0, slot
        if HAS_ROW_TABLE:
            source_row = tl.load(row_table + row) + slot * 0
        if HAS_BLOCK_TABLE:
            entry = block_table + row * blocks_row + slot // BLOCK_TOKENS
            source_row, source_slot = tl.load(entry, mask=slot < end, other=0), slot % BLOCK_TOKENS
        k_at = (source_row * k_row + head * k_head + source_slot * k_slot)[:, None] + key_lane[None]
        k = tl.load(keys + k_at, mask=(slot < end)[:, None] & (key_lane < KEY_WIDTH)[None], other=0.0)
        score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        if HAS_SOFTCAP:  # the tanh of score ÷ softcap
            score = softcap * (1.0 - 2.0 / (tl.exp(2.0 * score / softcap) + 1.0))
        score = tl.where(seen, score, -1e30)
        new_top = tl.maximum(top, tl.max(score, 1))
        share = tl.where(seen, tl.exp(score - new_top[:, None]), 0.0)
        weight = weight * tl.exp(top - new_top) + tl.sum(share, 1)
        # What no query sees is not read: it may be NaN, and 0 times NaN is NaN.
        is_value = (tl.max(seen.to(tl.int32), 0) > 0)[:, None] & (value_lane < VALUE_WIDTH)[None]
        v_at = (source_row * v_row + head * v_head + source_slot * v_slot)[:, None] + value_lane[None]
        v = tl.load(values + v_at, mask=is_value, other=0.0)
        total = total * tl.exp(top - new_top)[:, None] + tl.dot(share.to(v.dtype), v, input_precision="ieee")
        top = new_top
    out = (pair * SPLITS + split) * ALL_QUERIES + query
    tl.store(tops + out, top)
    tl.store(weights + out, weight)
    tl.store(sums + out[:, None] * VALUE_LANES + value_lane[None], total)


@triton.jit
def join_parts(
    sums, tops, weights, sinks, begins, result, o_row, o_node, o_head, key_heads,
    NODES: tl.constexpr, GROUP: tl.constexpr, VALUE_WIDTH: tl.constexpr, VALUE_LANES: tl.constexpr,
    ALL_QUERIES: tl.constexpr, SPLITS: tl.constexpr, HAS_SINKS: tl.constexpr, HAS_BEGINS: tl.constexpr,
):
    """Add up the splits of one query, and divide by the weights, to which a sink adds its own."""
    query, pair = tl.program_id(0), tl.program_id(1)
    row, head = pair // key_heads, pair % key_heads
    begin_node, count = nodes_of(begins, row, NODES, HAS_BEGINS)
    query_head = head * GROUP + tl.minimum(query // count, GROUP - 1)  # a row of fewer nodes has fewer queries
    lane = tl.arange(0, VALUE_LANES)
    at = (pair * SPLITS + tl.arange(0, SPLITS)) * ALL_QUERIES + query
    part_top, part_weight = tl.load(tops + at), tl.load(weights + at)
    top = tl.max(part_top, 0)
    if HAS_SINKS:
        sink = tl.load(sinks + query_head).to(tl.float32)
        top = tl.maximum(top, sink)
    factor = tl.exp(part_top - top)
    weight = tl.sum(part_weight * factor, 0) + tl.where(query < count * GROUP, 0.0, 1.0)
    if HAS_SINKS:
        weight += tl.exp(sink - top)
    total = tl.sum(tl.load(sums + at[:, None] * VALUE_LANES + lane[None]) * factor[:, None], 0) / weight
    out = row * o_row + (begin_node + query % count) * o_node + query_head * o_head + lane
    is_result = (lane < VALUE_WIDTH) & (lane * 0 + query < count * GROUP)
    tl.store(result + out, total.to(result.dtype.element_ty), mask=is_result)
