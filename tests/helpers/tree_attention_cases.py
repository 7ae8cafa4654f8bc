"""Cases of tree attention, what float64 computes for them, and what the Triton kernel does."""

import math

import numpy as np
import torch
from hypothesis import strategies as st

from lookahead.backends.cuda.packed_trees import PackedTrees, columns_for, pack
from lookahead.decoding.attention.visibility import TreeRow
from lookahead.drafting.tree import DraftTree

CACHE_SLOTS = 192


def random_tree(random, nodes):
    parents, depths = np.full(nodes, -1, np.int32), np.zeros(nodes, np.int32)
    for node in range(1, nodes):
        parents[node] = node - 1 if random.random() < 0.6 else random.integers(0, node)
        depths[node] = depths[parents[node]] + 1
    return DraftTree(random.integers(0, 50, nodes).astype(np.int32), parents, depths, np.ones(nodes))


def oracle(query, keys, values, mask, *, scaling, softcap=None, sinks=None):
    """Attention in float64, [B, n, heads, value width]: `mask` is bool [B, n, slots]."""
    heads, key_heads = query.shape[1], keys.shape[1]
    keys, values = (part.double().repeat_interleave(heads // key_heads, 1) for part in (keys, values))
    scores = query.double() @ keys.transpose(2, 3) * scaling
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    scores = scores.masked_fill(~mask[:, None], -math.inf)
    if sinks is not None:
        sink = sinks.double()[None, :, None, None].expand(len(query), -1, query.shape[2], 1)
        scores = torch.cat([scores, sink], dim=-1)
        values = torch.cat([values, torch.zeros_like(values[:, :, :1])], dim=2)
    return (scores.softmax(-1) @ values).transpose(1, 2)


@st.composite
def cases(draw):
    """Trees, cache and settings; few dimensions are large at once, since the interpreter is slow."""
    rows = draw(st.sampled_from([1, 1, 2, 3, 5, 16]))
    nodes = draw(st.sampled_from([1, 2, 3, 7, 16, 24] if rows > 3 else [1, 2, 5, 8, 16, 24, 33, 64]))
    group = draw(st.sampled_from([1, 2, 3, 4, 7, 8, 16] if nodes * rows < 128 else [1, 2]))
    return {
        "rows": rows,
        "nodes": nodes,
        "group": group,
        "key_heads": draw(st.sampled_from([1, 2])) if rows < 5 else 1,
        "widths": draw(st.sampled_from([(16, 16), (8, 8), (24, 16), (20, 12), (64, 64)])),
        "window": draw(st.sampled_from([None, None, 1, 4, 40])),
        "chunk": draw(st.sampled_from([None, None, None, 5, 32])),
        "softcap": draw(st.sampled_from([None, None, 3.0])),
        "has_sinks": draw(st.booleans()),
        "is_padded": draw(st.booleans()),
        "splits": draw(st.sampled_from([1, 2, 4])),
        "tables": draw(st.sampled_from(["none", "none", "rows", "blocks"])),
        "is_ragged": draw(st.booleans()),
        "seed": draw(st.integers(0, 1000)),
    }


def computed(case, dtype, device="cpu"):
    """The kernel's result and the oracle's, of each row only the nodes of its tree."""
    from lookahead.backends.cuda.tree_attention import tree_attention

    random, generator = np.random.default_rng(case["seed"]), torch.Generator().manual_seed(case["seed"])
    rows, nodes, slots = case["rows"], case["nodes"], CACHE_SLOTS
    sizes = [nodes, *random.integers(1, nodes + 1, rows - 1).tolist()]
    lengths = random.integers(1, slots - nodes, rows).tolist()
    paddings = [int(random.integers(0, length)) if case["is_padded"] else 0 for length in lengths]
    trees = [
        TreeRow(
            random_tree(random, size),
            length,
            torch.tensor([0] * padding + [1]) if padding else None,
        )
        for size, length, padding in zip(sizes, lengths, paddings, strict=True)
    ]
    packed = torch.zeros(rows, columns_for(nodes), dtype=torch.int64)
    anything = torch.zeros(rows, nodes, dtype=torch.int64)
    pack(packed, anything, anything, trees)
    mask = PackedTrees(packed).mask(slots, torch.float32, window=case["window"], chunk=case["chunk"])
    key_width, value_width = case["widths"]
    heads = case["key_heads"] * case["group"]

    def uniform(*shape):
        return (torch.rand(*shape, generator=generator) * 2 - 1).to(dtype)

    query = uniform(rows, heads, nodes, key_width)
    keys = uniform(rows, case["key_heads"], slots, key_width)
    values = uniform(rows, case["key_heads"], slots, value_width)
    sinks = uniform(heads) if case["has_sinks"] else None
    attention = {"scaling": key_width**-0.5 * 2, "softcap": case["softcap"], "sinks": sinks}
    expected = oracle(query, keys, values, mask[:, 0] == 0, **attention)
    unseen = ~(mask[:, 0] == 0).any(1)  # of any row: it may hold what is no number
    values = values.masked_fill(unseen[:, None, :, None], torch.nan)
    tables = {}
    if case["tables"] == "rows":
        order = torch.randperm(rows, generator=generator)
        keys, values = keys[order], values[order]
        tables["row_table"] = order.argsort()
    if case["tables"] == "blocks":
        blocks = slots // 16
        order = torch.randperm(rows * blocks, generator=generator)
        keys, values = (
            part.unflatten(2, (blocks, 16)).transpose(1, 2).flatten(0, 1)[order].contiguous()
            for part in (keys, values)
        )
        tables["block_table"] = order.argsort().view(rows, blocks)
    tables = {name: table.to(device) for name, table in tables.items()}
    if sinks is not None:
        attention["sinks"] = sinks.to(device)
    is_ragged = case.get("is_ragged", False)
    if is_ragged:  # one row's nodes after the other's, and some that no row has
        behind = uniform(heads, 3, key_width)
        own = [of_row[:, :size] for of_row, size in zip(query, sizes, strict=True)]
        query = torch.cat([*own, behind], dim=1)[None]
        tables["begins"] = torch.tensor([0, *sizes]).cumsum(0).to(device)
    found = tree_attention(
        query.to(device),
        keys.to(device),
        values.to(device),
        packed.to(device),
        window=case["window"],
        chunk=case["chunk"],
        max_nodes=nodes if is_ragged else None,
        splits=case["splits"],
        **attention,
        **tables,
    )
    if is_ragged:
        found = torch.split(found[0, : sum(sizes)], sizes)
    pairs = zip(found, expected, sizes, strict=True)
    return [(of_row[:size].double().cpu(), wanted[:size]) for of_row, wanted, size in pairs]


def largest_error(pairs):
    return max(float((found - wanted).abs().max()) for found, wanted in pairs)
