r"""The Triton kernels of tree attention: what a node sees is read on the device, the context is split.

    split 0         split 1         split 2
    a b c d e f g   h i j k l m n   o p | 0 1 2        text, then the tree's nodes, in blocks of the cache
         |               |              |
    partial sums    partial sums    partial sums       `attend_to_part`: one program per split and key head
         \_______________|______________/
                   the result                          `join_parts`: one program per query

Lengths, padding, depths and ancestors come from the packed trees, so nothing of them is an argument. A program
loops over the slots that hold something. So one launch serves any length of context.
"""

import triton
import triton.language as tl




@triton.jit
def attend_to_part(  # noqa: ANN201, D417, PLR0915
    queries,  # noqa: ANN001
    keys,  # noqa: ANN001
    values,  # noqa: ANN001
    packed,  # noqa: ANN001
    row_table,  # noqa: ANN001
    block_table,  # noqa: ANN001
    sums,  # noqa: ANN001
    tops,  # noqa: ANN001
    weights,  # noqa: ANN001
    scale,  # noqa: ANN001
    softcap,  # noqa: ANN001
    window,  # noqa: ANN001
    chunk,  # noqa: ANN001
    q_row,  # noqa: ANN001
    q_head,  # noqa: ANN001
    q_node,  # noqa: ANN001
    k_row,  # noqa: ANN001
    k_head,  # noqa: ANN001
    k_slot,  # noqa: ANN001
    v_row,  # noqa: ANN001
    v_head,  # noqa: ANN001
    v_slot,  # noqa: ANN001
    packed_row,  # noqa: ANN001
    blocks_row,  # noqa: ANN001
    key_heads,  # noqa: ANN001
    NODES: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    KEY_WIDTH: tl.constexpr,  # noqa: N803
    VALUE_WIDTH: tl.constexpr,  # noqa: N803
    KEY_LANES: tl.constexpr,  # noqa: N803
    VALUE_LANES: tl.constexpr,  # noqa: N803
    QUERIES: tl.constexpr,  # noqa: N803
    ALL_QUERIES: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
    BLOCK_TOKENS: tl.constexpr,  # noqa: N803
    SPLITS: tl.constexpr,  # noqa: N803
    HAS_SOFTCAP: tl.constexpr,  # noqa: N803
    HAS_WINDOW: tl.constexpr,  # noqa: N803
    HAS_CHUNK: tl.constexpr,  # noqa: N803
    HAS_ROW_TABLE: tl.constexpr,  # noqa: N803
    HAS_BLOCK_TABLE: tl.constexpr,  # noqa: N803
):
    """Attend with a tile of one key head's queries to one split of the slots; write unnormalised sums."""
    split, pair, tile = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row, head = pair // key_heads, pair % key_heads
    query = tile * QUERIES + tl.arange(0, QUERIES)
    node, member = query % NODES, query // NODES
    is_query = query < NODES * GROUP
    key_lane, value_lane = tl.arange(0, KEY_LANES), tl.arange(0, VALUE_LANES)

    tree = packed + row * packed_row
    length = tl.load(tree + 4 * NODES)
    padding = tl.load(tree + 4 * NODES + 1)
    ancestors = tl.load(tree + 3 * NODES + node)
    place = length + tl.load(tree + 2 * NODES + node)
    first = padding + place * 0  # the first place that each query sees
    lowest = padding  # the first place that any query sees: that of node 0
    if HAS_WINDOW:
        first = tl.maximum(first, place - window + 1)
        lowest = tl.maximum(lowest, length - window + 1)
    if HAS_CHUNK:
        first = tl.maximum(first, (place - padding) // chunk * chunk + padding)
        lowest = tl.maximum(lowest, (length - padding) // chunk * chunk + padding)

    cache_row = row
    if HAS_ROW_TABLE:
        cache_row = tl.load(row_table + row)
    at = row * q_row + (head * GROUP + member)[:, None] * q_head + node[:, None] * q_node + key_lane[None]
    is_element = is_query[:, None] & (key_lane < KEY_WIDTH)[None]
    q = tl.load(queries + at, mask=is_element, other=0.0)
    top = tl.full([QUERIES], -1e30, tl.float32)
    weight = tl.zeros([QUERIES], tl.float32)
    total = tl.zeros([QUERIES, VALUE_LANES], tl.float32)

    end = length + NODES
    begin_block = lowest // BLOCK
    each = ((end + BLOCK - 1) // BLOCK - begin_block + SPLITS - 1) // SPLITS
    begin = begin_block + split * each
    for block in range(begin, tl.minimum(begin + each, (end + BLOCK - 1) // BLOCK)):
        slot = block * BLOCK + tl.arange(0, BLOCK)
        is_held = slot < end
        other = tl.minimum(tl.maximum(slot - length, 0), NODES - 1)  # the node in a slot of the tree
        is_tree = (slot >= length) & is_held
        other_place = tl.where(is_tree, length + tl.load(tree + 2 * NODES + other), slot)
        is_ancestor = ((ancestors[:, None] >> other[None]) & 1) == 1
        seen = tl.where(is_tree[None], is_ancestor, (slot < length)[None])
        seen = seen & (other_place[None] >= first[:, None]) & is_query[:, None]

        source_row, source_slot = cache_row + slot * 0, slot
        if HAS_BLOCK_TABLE:
            source_row = tl.load(block_table + row * blocks_row + slot // BLOCK_TOKENS, mask=is_held, other=0)
            source_slot = slot % BLOCK_TOKENS
        k_at = source_row * k_row + head * k_head + source_slot * k_slot
        is_key = is_held[:, None] & (key_lane < KEY_WIDTH)[None]
        k = tl.load(keys + k_at[:, None] + key_lane[None], mask=is_key, other=0.0)
        score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        if HAS_SOFTCAP:
            half = score / softcap
            score = softcap * (1.0 - 2.0 / (tl.exp(2.0 * half) + 1.0))
        score = tl.where(seen, score, -1e30)
        new_top = tl.maximum(top, tl.max(score, 1))
        share = tl.where(seen, tl.exp(score - new_top[:, None]), 0.0)
        factor = tl.exp(top - new_top)
        weight = weight * factor + tl.sum(share, 1)
        # What no query sees is not read: it may be NaN, and 0 times NaN is NaN.
        is_value = (tl.max(seen.to(tl.int32), 0) > 0)[:, None] & (value_lane < VALUE_WIDTH)[None]
        v_at = source_row * v_row + head * v_head + source_slot * v_slot
        v = tl.load(values + v_at[:, None] + value_lane[None], mask=is_value, other=0.0)
        total = total * factor[:, None] + tl.dot(share.to(v.dtype), v, input_precision="ieee")
        top = new_top

    out = (pair * SPLITS + split) * ALL_QUERIES + query
    tl.store(tops + out, top)
    tl.store(weights + out, weight)
    tl.store(sums + out[:, None] * VALUE_LANES + value_lane[None], total)


@triton.jit
def join_parts(  # noqa: ANN201, D417
    sums,  # noqa: ANN001
    tops,  # noqa: ANN001
    weights,  # noqa: ANN001
    sinks,  # noqa: ANN001
    result,  # noqa: ANN001
    o_row,  # noqa: ANN001
    o_node,  # noqa: ANN001
    o_head,  # noqa: ANN001
    key_heads,  # noqa: ANN001
    NODES: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    VALUE_WIDTH: tl.constexpr,  # noqa: N803
    VALUE_LANES: tl.constexpr,  # noqa: N803
    ALL_QUERIES: tl.constexpr,  # noqa: N803
    SPLITS: tl.constexpr,  # noqa: N803
    HAS_SINKS: tl.constexpr,  # noqa: N803
):
    """Add up the splits of one query, and divide by the weights, to which a sink adds its own."""
    query, pair = tl.program_id(0), tl.program_id(1)
    row, head = pair // key_heads, pair % key_heads
    query_head = head * GROUP + query // NODES
    lane = tl.arange(0, VALUE_LANES)
    at = (pair * SPLITS + tl.arange(0, SPLITS)) * ALL_QUERIES + query
    part_top, part_weight = tl.load(tops + at), tl.load(weights + at)
    top = tl.max(part_top, 0)
    if HAS_SINKS:
        sink = tl.load(sinks + query_head).to(tl.float32)
        top = tl.maximum(top, sink)
    factor = tl.exp(part_top - top)
    weight = tl.sum(part_weight * factor, 0)
    if HAS_SINKS:
        weight += tl.exp(sink - top)
    total = tl.sum(tl.load(sums + at[:, None] * VALUE_LANES + lane[None]) * factor[:, None], 0) / weight
    out = row * o_row + (query % NODES) * o_node + query_head * o_head + lane
    tl.store(result + out, total.to(result.dtype.element_ty), mask=lane < VALUE_WIDTH)
