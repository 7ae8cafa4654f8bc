"""Attention of draft trees: right, and for a node the same bits wherever it stands, whatever is beside it."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.fused_kernels import DTYPES, Attention
from helpers.random_trees import random_tree
from lookahead.decoding.attention.visibility import TreeRow
from lookahead.drafting.tree import DraftTree
from oracles.fused_oracle import dense_attention

LENGTHS = [1, 2, 63, 64, 65, 100, 127, 128, 129, 400, 509, 512, 515, 580, 1023, 1030]
"""Around the borders of blocks and spans."""


@st.composite
def attentions(draw, max_rows=3):
    """Random trees behind random caches; what no node sees is not a number."""
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
    start, size = max(row.length for row in rows), max(len(row.tree) for row in rows)

    def numbers(*shape):
        return (2 * torch.randn(shape, generator=generator)).to(dtype)

    capacity = start + size + draw(st.integers(0, 9))
    keys, values = (numbers(len(rows), key_heads, capacity, width) for _ in range(2))
    for place, row in enumerate(rows):
        for cache in (keys, values):
            cache[place, :, : row.left_padding] = torch.nan
            cache[place, :, row.length : start] = torch.nan
            cache[place, :, start + size :] = torch.nan
    queries = numbers(len(rows), size, heads, width)
    window = draw(st.sampled_from([None, None, 1, 5, 40, 64, 100, 600]))
    return Attention(rows, start, queries, keys, values, window)


@settings(max_examples=60)
@given(attentions())
def test_attention_against_the_mask_in_double_precision(attention):
    attended = attention.attended().double()
    expected = dense_attention(*attention)
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
def test_neither_the_team_nor_spare_spans_change_a_bit(attention, members, spare_spans):
    assert torch.equal(attention.attended(members, spare_spans), attention.attended())


@settings(max_examples=100)
@given(attentions())
def test_a_row_is_the_same_alone(attention):
    together = attention.attended()
    for place, row in enumerate(attention.rows):
        size = len(row.tree)
        keys, values = (_row_alone(cache, attention, place) for cache in (attention.keys, attention.values))
        queries = attention.queries[place : place + 1, :size].contiguous()
        alone = Attention([row], row.length, queries, keys, values, attention.window)
        assert torch.equal(alone.attended()[0], together[place, :size])


@settings(max_examples=100)
@given(attentions(max_rows=1), st.randoms(use_true_random=False))
def test_a_node_is_the_same_in_a_tree_in_a_chain_and_in_a_step_of_its_own(attention, random):
    (row,), length, tree = attention.rows, attention.rows[0].length, attention.rows[0].tree
    in_tree = attention.attended()[0]
    path = tree.path_to(random.randrange(len(tree)))
    at = torch.tensor(path)
    keys, values = (
        torch.cat([cache[:, :, :length], cache[:, :, length + at]], dim=2)
        for cache in (attention.keys, attention.values)
    )
    chain = TreeRow(DraftTree.chain(tree.token_ids[path]), length, row.padding)
    queries = attention.queries[:, at].contiguous()
    as_chain = Attention([chain], length, queries, keys, values, attention.window).attended()[0]
    assert torch.equal(as_chain, in_tree[at])
    for depth in range(len(path)):
        step = TreeRow(DraftTree.root_only(1), length + depth, row.padding)
        query = queries[:, depth : depth + 1].contiguous()
        alone = Attention([step], length + depth, query, keys, values, attention.window).attended()[0]
        assert torch.equal(alone[0], as_chain[depth])


def _row_alone(cache, attention, place):
    """Return a row's part of a cache, its tree right behind its text."""
    length, size = attention.rows[place].length, len(attention.rows[place].tree)
    tree = cache[place : place + 1, :, attention.start : attention.start + size]
    return torch.cat([cache[place : place + 1, :, :length], tree], dim=2)
