"""Attention of draft trees and prompts: correct, and the same bits for a node whatever else is computed.

`make test` has a quarter of the examples of `make verify`.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.cpu_attention import Attention
from helpers.cpu_kernels import kinds
from helpers.random_trees import random_tree
from helpers.samples import examples
from lookahead.backends.cpu.kernels.attention.pieces import MIN_PROMPT
from lookahead.decoding.attention.visibility import TreeRow
from lookahead.drafting.tree import DraftTree
from oracles.cpu_oracle import naive_attention

LENGTHS = [1, 2, 63, 64, 65, 100, 127, 128, 129, 400, 509, 512, 515, 580, 1023, 1030]
"""Around the borders of blocks and spans."""
CHAINS = [MIN_PROMPT - 1, MIN_PROMPT, MIN_PROMPT + 1, 63, 64, 65, 128, 129, 150, 200]
HEADS = [(1, 1), (2, 1), (4, 2), (3, 3), (9, 3), (6, 1)]


def padded_row(tree, length, hidden):
    """A tree after a text of `length` slots, the first of which are padding: at most all but one."""
    hidden = min(hidden, length - 1)
    return TreeRow(tree, length, (torch.arange(length) >= hidden).long() if hidden else None)


@st.composite
def tree_rows(draw):
    tree = random_tree(draw(st.integers(1, 20)), draw(st.integers(0, 1000)))
    return padded_row(tree, draw(st.sampled_from(LENGTHS)), draw(st.sampled_from([0, 0, 1, 70])))


@st.composite
def chain_rows(draw):
    """Parts of prompts, which may be the first ones."""
    length = draw(st.sampled_from([0, *LENGTHS]))
    hidden = draw(st.sampled_from([0, 0, 1, 70])) if length > 0 else 0
    return padded_row(DraftTree.chain([1] * draw(st.sampled_from(CHAINS))), length, hidden)


@st.composite
def attentions(draw, max_rows=3, kinds_of_rows=(tree_rows, chain_rows)):
    """Random trees and prompts behind random texts, in any rows of a cache; slots no node sees are NaN."""
    (dtype, uses_tiles), width = draw(st.sampled_from(kinds())), draw(st.sampled_from([32, 64, 96, 128]))
    heads, key_heads = draw(st.sampled_from(HEADS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    of_any_kind = st.one_of(*(kind() for kind in kinds_of_rows))
    rows, is_ragged = draw(st.lists(of_any_kind, min_size=1, max_size=max_rows)), draw(st.booleans())
    size = max(len(row.tree) for row in rows)

    def numbers(*shape):
        return (2 * torch.randn(shape, generator=generator)).to(dtype)

    cache_rows = draw(st.permutations(range(len(rows) + draw(st.integers(0, 2)))))
    capacity = max(row.length for row in rows) + size + draw(st.integers(0, 9))
    shape = (len(cache_rows), key_heads, capacity, width)
    keys, values = (torch.full(shape, torch.nan, dtype=dtype) for _ in range(2))
    for cache_row, row in zip(cache_rows, rows, strict=False):
        seen = slice(row.left_padding, row.length + (len(row.tree) if is_ragged else size))
        for cache in (keys, values):
            cache[cache_row, :, seen] = numbers(key_heads, seen.stop - seen.start, width)
    queries = numbers(len(rows), size, heads, width)
    window = draw(st.sampled_from([None, None, 1, 5, 40, 64, 100, 600]))
    return Attention(
        rows,
        cache_rows[: len(rows)],
        queries,
        keys,
        values,
        window,
        uses_tiles=uses_tiles,
        is_ragged=is_ragged,
    )


@pytest.mark.matrix
@settings(max_examples=examples(100, 12))
@given(attentions())
def test_attention_against_each_node_by_itself_in_double_precision(attention):
    attended = attention.attended().double()
    expected = naive_attention(*attention[:6])
    allowed = 2e-5 if attention.queries.dtype == torch.float32 else 2e-2
    for row, (of_row, right) in enumerate(zip(attended, expected, strict=True)):
        nodes = len(attention.rows[row].tree)
        torch.testing.assert_close(of_row[:nodes], right[:nodes], rtol=allowed, atol=allowed)


@pytest.mark.matrix
@settings(max_examples=examples(60, 10))
@given(attentions())
def test_a_layer_by_itself_has_the_same_bits(attention):
    attention = attention._replace(is_ragged=False)
    attended, in_a_layer = attention.attended(), attention.in_a_layer()
    for row, of_row, of_layer in zip(attention.rows, attended, in_a_layer, strict=True):
        assert torch.equal(of_layer[: len(row.tree)], of_row[: len(row.tree)])


@pytest.mark.matrix
@settings(max_examples=examples(100, 12))
@given(attentions(), st.integers(2, 5), st.integers(0, 2))
def test_neither_the_team_nor_spare_spans_change_a_bit(attention, workers, spare_spans):
    attention = attention._replace(is_ragged=True)
    assert torch.equal(attention.attended(workers, spare_spans), attention.attended())


@pytest.mark.matrix
@settings(max_examples=examples(100, 12))
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
        alone = attention._replace(rows=[row], cache_rows=[0], queries=queries, keys=keys, values=values)
        assert torch.equal(alone.attended()[0], together[place, :size])


@pytest.mark.matrix
@settings(max_examples=examples(60, 10))
@given(attentions(), st.randoms(use_true_random=False), st.integers(0, 3))
def test_a_row_is_the_same_in_any_row_of_the_cache(attention, random, spare_rows):
    attention = attention._replace(is_ragged=True)
    order = random.sample(range(len(attention.keys) + spare_rows), len(attention.rows))
    shape = (len(attention.keys) + spare_rows, *attention.keys.shape[1:])
    keys, values = (torch.full(shape, torch.nan, dtype=attention.keys.dtype) for _ in range(2))
    keys[order], values[order] = attention.keys[attention.cache_rows], attention.values[attention.cache_rows]
    elsewhere = attention._replace(cache_rows=order, keys=keys, values=values)
    assert torch.equal(elsewhere.attended(), attention.attended())


@pytest.mark.matrix
@settings(max_examples=examples(60, 10))
@given(attentions(max_rows=1), st.integers(1, 130))
def test_padding_on_the_left_changes_no_bit(attention, hidden):
    (row,), cache_row = attention.rows, attention.cache_rows[0]
    length, begin = row.length - row.left_padding, row.left_padding
    keys, values = (
        torch.cat(
            [torch.full_like(cache[:, :, :1], torch.nan).expand(-1, -1, hidden, -1), cache[:, :, begin:]], 2
        )
        for cache in (attention.keys, attention.values)
    )
    padded = padded_row(row.tree, hidden + length, hidden) if length else None
    if padded is None:  # all of the text so far is padding
        padded = TreeRow(row.tree, hidden, torch.zeros(hidden, dtype=torch.int64))
    moved = attention._replace(rows=[padded], keys=keys, values=values, cache_rows=[cache_row])
    nodes = len(row.tree)
    assert torch.equal(moved.attended()[:, :nodes], attention.attended()[:, :nodes])


@pytest.mark.matrix
@settings(max_examples=examples(100, 12))
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
    in_chain = attention._replace(rows=[chain], queries=queries, keys=keys, values=values)
    as_chain = in_chain.attended()[0]
    assert torch.equal(as_chain, in_tree[at])
    for depth in random.sample(range(len(path)), min(len(path), 20)):
        step = TreeRow(DraftTree.root_only(1), length + depth, row.padding)
        query = queries[:, depth : depth + 1].contiguous()
        alone = in_chain._replace(rows=[step], queries=query).attended()[0]
        assert torch.equal(alone[0], as_chain[depth])


@pytest.mark.matrix
@settings(max_examples=examples(80, 10))
@given(attentions(max_rows=1, kinds_of_rows=(chain_rows,)), st.data())
def test_a_prompt_is_the_same_in_parts_of_any_size(attention, data):
    (row,), size = attention.rows, len(attention.rows[0].tree)
    whole = attention.attended()
    cuts = data.draw(st.sets(st.integers(1, size - 1), min_size=1, max_size=4), label="cuts")
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), size], strict=True):
        part = TreeRow(DraftTree.chain([1] * (end - begin)), row.length + begin, row.padding)
        queries = attention.queries[:, begin:end].contiguous()
        of_part = attention._replace(rows=[part], queries=queries).attended()
        assert torch.equal(of_part, whole[:, begin:end])


@pytest.mark.matrix
@settings(max_examples=examples(60, 10))
@given(attentions(max_rows=1, kinds_of_rows=(chain_rows,)), st.data())
def test_what_comes_later_in_a_prompt_changes_no_bit(attention, data):
    (row,), cache_row = attention.rows, attention.cache_rows[0]
    before = attention.attended()
    node = data.draw(st.integers(1, len(row.tree) - 1), label="first node that is spoilt")
    for cache in (attention.keys, attention.values):
        number = data.draw(st.sampled_from([torch.nan, torch.inf, -torch.inf, 3e38]))
        cache[cache_row, :, row.length + node :] = number
    attention.queries[:, node:] = data.draw(st.sampled_from([torch.nan, torch.inf, 3e38]))
    assert torch.equal(attention.attended()[:, :node], before[:, :node])
