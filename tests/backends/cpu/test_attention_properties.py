"""Attention of draft trees: correct, and the same bits for a node whatever else is in the forward pass."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.cpu_kernels import DTYPES, Attention
from helpers.random_trees import random_tree
from lookahead.decoding.attention.visibility import TreeRow
from lookahead.drafting.tree import DraftTree
from oracles.cpu_oracle import naive_attention

LENGTHS = [1, 2, 63, 64, 65, 100, 127, 128, 129, 400, 509, 512, 515, 580, 1023, 1030]
"""Around the borders of blocks and spans."""


@st.composite
def attentions(draw, max_rows=3):
    """Random trees behind random texts, in any rows of a cache; slots that no node sees are NaN."""
    dtype, width = draw(st.sampled_from(DTYPES)), draw(st.sampled_from([32, 64, 128]))
    heads, key_heads = draw(st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3), (9, 3), (6, 1)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    rows = []
    for _ in range(draw(st.integers(1, max_rows))):
        length = draw(st.sampled_from(LENGTHS))
        tree = random_tree(draw(st.integers(1, 20)), draw(st.integers(0, 1000)))
        hidden = draw(st.sampled_from([0, 0, 1, min(length - 1, 70)]))
        padding = (torch.arange(length) >= min(hidden, length - 1)).long() if hidden else None
        rows.append(TreeRow(tree, length, padding))
    size = max(len(row.tree) for row in rows)

    def numbers(*shape):
        return (2 * torch.randn(shape, generator=generator)).to(dtype)

    cache_rows = draw(st.permutations(range(len(rows) + draw(st.integers(0, 2)))))
    capacity = max(row.length for row in rows) + size + draw(st.integers(0, 9))
    shape = (len(cache_rows), key_heads, capacity, width)
    keys, values = (torch.full(shape, torch.nan, dtype=dtype) for _ in range(2))
    for cache_row, row in zip(cache_rows, rows, strict=False):
        seen = slice(row.left_padding, row.length + size)
        for cache in (keys, values):
            cache[cache_row, :, seen] = numbers(key_heads, seen.stop - seen.start, width)
    queries = numbers(len(rows), size, heads, width)
    window = draw(st.sampled_from([None, None, 1, 5, 40, 64, 100, 600]))
    return Attention(rows, cache_rows[: len(rows)], queries, keys, values, window)


@settings(max_examples=60)
@given(attentions())
def test_attention_against_each_node_by_itself_in_double_precision(attention):
    attended = attention.attended().double()
    expected = naive_attention(*attention)
    allowed = 2e-5 if attention.queries.dtype == torch.float32 else 2e-2
    for row, (of_row, right) in enumerate(zip(attended, expected, strict=True)):
        nodes = len(attention.rows[row].tree)
        torch.testing.assert_close(of_row[:nodes], right[:nodes], rtol=allowed, atol=allowed)


@settings(max_examples=60)
@given(attentions())
def test_a_layer_by_itself_has_the_same_bits(attention):
    expected = attention.attended()
    assert torch.equal(attention.in_a_layer(), expected)


@settings(max_examples=100)
@given(attentions(), st.integers(2, 5), st.integers(0, 2))
def test_neither_the_team_nor_spare_spans_change_a_bit(attention, workers, spare_spans):
    assert torch.equal(attention.attended(workers, spare_spans), attention.attended())


@settings(max_examples=100)
@given(attentions())
def test_a_row_is_the_same_alone(attention):
    together = attention.attended()
    for place, (row, cache_row) in enumerate(zip(attention.rows, attention.cache_rows, strict=True)):
        size = len(row.tree)
        keys, values = (
            cache[cache_row : cache_row + 1, :, : row.length + size].contiguous()
            for cache in (attention.keys, attention.values)
        )
        queries = attention.queries[place : place + 1, :size].contiguous()
        alone = Attention([row], [0], queries, keys, values, attention.window)
        assert torch.equal(alone.attended()[0], together[place, :size])


@settings(max_examples=60)
@given(attentions(), st.randoms(use_true_random=False), st.integers(0, 3))
def test_a_row_is_the_same_in_any_row_of_the_cache(attention, random, spare_rows):
    order = random.sample(range(len(attention.keys) + spare_rows), len(attention.rows))
    shape = (len(attention.keys) + spare_rows, *attention.keys.shape[1:])
    keys, values = (torch.full(shape, torch.nan, dtype=attention.keys.dtype) for _ in range(2))
    keys[order], values[order] = attention.keys[attention.cache_rows], attention.values[attention.cache_rows]
    elsewhere = attention._replace(cache_rows=order, keys=keys, values=values)
    assert torch.equal(elsewhere.attended(), attention.attended())


@settings(max_examples=100)
@given(attentions(max_rows=1), st.randoms(use_true_random=False))
def test_a_node_is_the_same_in_a_tree_in_a_chain_and_in_a_step_of_its_own(attention, random):
    (row,), length, tree = attention.rows, attention.rows[0].length, attention.rows[0].tree
    in_tree = attention.attended()[0]
    path = tree.path_to(random.randrange(len(tree)))
    at = torch.tensor(path)
    keys, values = (
        torch.cat([cache[:, :, :length], cache[:, :, length + at]], dim=2).contiguous()
        for cache in (attention.keys, attention.values)
    )
    chain = TreeRow(DraftTree.chain(tree.token_ids[path]), length, row.padding)
    queries = attention.queries[:, at].contiguous()
    as_chain = Attention([chain], attention.cache_rows, queries, keys, values, attention.window).attended()[0]
    assert torch.equal(as_chain, in_tree[at])
    for depth in range(len(path)):
        step = TreeRow(DraftTree.root_only(1), length + depth, row.padding)
        query = queries[:, depth : depth + 1].contiguous()
        alone = Attention([step], attention.cache_rows, query, keys, values, attention.window).attended()[0]
        assert torch.equal(alone[0], as_chain[depth])
