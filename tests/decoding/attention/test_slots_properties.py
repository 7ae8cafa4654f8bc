"""The slot table against a walk up each node's branch."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.random_trees import random_tree
from lookahead.decoding.attention.slots import slot_table, slots_of_rows, tail_length
from lookahead.decoding.attention.visibility import TreeRow
from oracles.naive_slots import naive_slots, naive_slots_of_rows


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), min_size=1, max_size=4),
    st.sampled_from([1, 4, 16]),
    st.integers(0, 2**32),
)
def test_slots_of_random_trees(rows, block, seed):
    trees = [random_tree(nodes, seed + row) for row, (_, nodes) in enumerate(rows)]
    lengths = [length for length, _ in rows]
    size = max(map(len, trees))
    table = slot_table(trees, lengths, size, block)
    assert table.dtype == np.int64
    assert table.tolist() == naive_slots(trees, lengths, size, block)


@st.composite
def rows_of_nodes(draw):
    """A tree with its nodes in the forward pass, and whether it counts as a chain, which has no table."""
    tree = random_tree(draw(st.integers(1, 12)), draw(st.integers(0, 2**32)))
    length, hidden = draw(st.integers(0, 60)), draw(st.integers(0, 40))
    padding = (torch.arange(length) >= hidden).long() if hidden else None
    size = len(tree) + draw(st.integers(0, 3))
    return TreeRow(tree, length, padding), size, draw(st.booleans())


@given(st.lists(rows_of_nodes(), min_size=1, max_size=4), st.sampled_from([1, 4, 16]))
def test_slots_of_rows_that_are_padded_on_the_left(given_rows, block):
    rows, sizes, are_chains = zip(*given_rows, strict=True)
    table = slots_of_rows(rows, sizes, are_chains, block)
    expected = naive_slots_of_rows(rows, sizes, are_chains, block)
    assert table.dtype == np.int64
    assert len(table) == len(expected)
    for found, right in zip(table.tolist(), expected, strict=True):
        assert right is None or found == right


@given(st.integers(0, 200), st.integers(0, 70), st.sampled_from([1, 16, 64]))
def test_the_tail_has_room_for_every_place_and_no_block_more(length, depth, block):
    tail = tail_length(length, depth, block)
    last = length + depth  # the deepest node's place
    assert tail % block == 0
    first = length - length % block
    assert first + tail > last >= first + tail - block
