"""The slot table against a walk up each node's branch."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from helpers.random_trees import random_tree
from lookahead.decoding.attention.slots import slot_table, tail_length
from oracles.naive_slots import naive_slots


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


@given(st.integers(0, 200), st.integers(0, 70), st.sampled_from([1, 16, 64]))
def test_the_tail_has_room_for_every_place_and_no_block_more(length, depth, block):
    tail = tail_length(length, depth, block)
    last = length + depth  # the deepest node's place
    assert tail % block == 0
    first = length - length % block
    assert first + tail > last >= first + tail - block
