"""Rows one after the other: each attends to its own text, and what that saves."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from helpers.random_trees import random_tree
from lookahead.decoding.attention.flat_rows import FlatRows
from lookahead.decoding.attention.tree_mask import tree_mask
from lookahead.decoding.attention.visibility import TreeRow

LENGTHS, SIZES, SLOTS = [9, 12, 3, 11, 10], [1, 1, 4, 1, 7], [0, 1, 2, 4, 5]


def rows_of(lengths, sizes):
    return [
        TreeRow(random_tree(size, seed), length)
        for seed, (length, size) in enumerate(zip(lengths, sizes, strict=True))
    ]


def attention(queries, keys, values, mask):
    return scaled_dot_product_attention(queries, keys, values, attn_mask=mask).transpose(1, 2)


@pytest.mark.parametrize(("window", "chunk"), [(None, None), (4, None), (None, 5)])
def test_each_row_attends_as_it_does_alone(window, chunk):
    generator = torch.Generator().manual_seed(1)
    rows, heads, width, total = rows_of(LENGTHS, SIZES), 2, 8, sum(SIZES)
    flat = FlatRows(rows, SLOTS)
    memory = [torch.randn(6, heads, 24, width, generator=generator) for _ in range(2)]
    before = [part.clone() for part in memory]
    query, *states = (torch.randn(1, heads, total, width, generator=generator) for _ in range(3))
    for part, new in zip(memory, states, strict=True):
        flat.write(part, new)
    masks = flat.masks(torch.float32, window, chunk)
    found = flat.attend(attention, query, (memory[0], memory[1]), masks)
    assert found.shape == (1, total, heads, width)
    begin = 0
    for row, slot in zip(rows, SLOTS, strict=True):
        end, size = begin + len(row.tree), len(row.tree)
        held = [
            torch.cat([old[slot, :, : row.length], new[0, :, begin:end]], dim=1)[None]
            for old, new in zip(before, states, strict=True)
        ]
        mask = tree_mask([row], torch.float32, size=size, window=window, chunk=chunk)
        torch.testing.assert_close(
            found[:, begin:end], attention(query[:, :, begin:end], held[0], held[1], mask)
        )
        for part, own in zip(memory, held, strict=True):
            assert torch.equal(part[slot, :, : row.length + size], own[0])
        begin = end
    for part, old in zip(memory, before, strict=True):
        assert torch.equal(part[3], old[3])  # no row of this step


def test_neighbours_with_as_many_nodes_and_texts_of_similar_length_are_one_group():
    def groups(lengths, sizes, slots):
        return [len(group.rows) for group in FlatRows(rows_of(lengths, sizes), slots).groups]

    assert groups(LENGTHS, SIZES, SLOTS) == [2, 1, 1, 1]
    assert groups([10] * 4, [1] * 4, [0, 1, 3, 4]) == [2, 2]
    assert groups([10] * 4, [2, 2, 1, 1], range(4)) == [2, 2]
    assert groups([500, 10, 12, 19], [1] * 4, range(4)) == [1, 3]
    assert groups([500, 400, 250, 249], [1] * 4, range(4)) == [3, 1]


def test_what_rows_one_after_the_other_save():
    def saved(lengths, sizes, slots_per_token=100.0):
        return FlatRows(rows_of(lengths, sizes), range(len(sizes))).saved_tokens(slots_per_token)

    assert saved([50] * 8, [16, *[1] * 7]) == pytest.approx(128 - 23 - 1 + 7 * 15 / 100)
    assert saved([50] * 8, [1] * 8) == 0  # a rectangle as well
    assert saved([50] * 8, [16] * 8) == 0
    assert saved([50] * 8, [3, 2] * 4) < 0  # four tokens less, and seven groups more
    assert saved([1999, *[49] * 7], [1] * 8) == pytest.approx(7 * 1950 / 100 - 1)
    assert saved([1999, *[49] * 7], [1] * 8, slots_per_token=20_000) < 0  # a model of large products


def test_a_cache_that_is_too_narrow_is_refused():
    flat = FlatRows(rows_of([2], [1]), [0])
    with pytest.raises(TypeError, match=r"holds torch.bfloat16 and was given torch.float32"):
        flat.write(torch.zeros(1, 1, 4, 2, dtype=torch.bfloat16), torch.zeros(1, 1, 1, 2))
    flat.write(memory := torch.zeros(1, 1, 4, 2), torch.ones(1, 1, 1, 2, dtype=torch.bfloat16))
    assert memory[0, 0, :, 0].tolist() == [0, 0, 1, 0]
