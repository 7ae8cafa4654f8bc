import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from lookahead.decoding.attention.grouped_query import grouped_query_tree_attention
from lookahead.decoding.attention.tree_mask import tree_mask, tree_positions
from lookahead.decoding.attention.visibility import TreeRow
from lookahead.drafting.tree import DraftTree

#        0
#      /   \
#     1     3
#     |    / \
#     2   4   5
TREE = DraftTree(
    np.array([9, 8, 7, 6, 5, 4], np.int32),
    np.array([-1, 0, 1, 0, 3, 3], np.int32),
    np.array([0, 1, 2, 1, 2, 2], np.int32),
    np.array([1, 0.9, 0.8, 0.7, 0.6, 0.5]),
)
SEES = [
    [1, 0, 0, 0, 0, 0],
    [1, 1, 0, 0, 0, 0],
    [1, 1, 1, 0, 0, 0],
    [1, 0, 0, 1, 0, 0],
    [1, 0, 0, 1, 1, 0],
    [1, 0, 0, 1, 0, 1],
]


def mask_of(tree, prefix, dtype=torch.float32, *, window=None):
    """[n, prefix + n]: the mask of one tree."""
    return tree_mask([TreeRow(tree, prefix)], dtype, size=len(tree), window=window)[0, 0]


def test_positions_are_depths_behind_the_prefix():
    assert tree_positions(TREE, 10).tolist() == [10, 11, 12, 11, 12, 12]
    assert tree_positions(TREE, 10, size=8).tolist() == [10, 11, 12, 11, 12, 12, 10, 10]


def test_a_node_sees_the_prefix_itself_and_its_ancestors():
    visible = mask_of(TREE, 3) == 0
    assert visible[:, :3].all()
    assert visible[:, 3:].int().tolist() == SEES


def test_what_is_hidden_is_the_dtypes_lowest_value():
    mask = mask_of(TREE, 1, torch.bfloat16)
    assert mask.dtype == torch.bfloat16
    assert set(mask.unique().tolist()) == {0.0, torch.finfo(torch.bfloat16).min}


@pytest.mark.parametrize("window", [1, 2, 3, 5])
def test_a_window_counts_positions_along_the_branch(window):
    prefix = 4
    visible = mask_of(TREE, prefix, window=window) == 0
    positions = [0, 1, 2, 3, 4, 5, 6, 5, 6, 6]
    for node in range(6):
        for slot in range(10):
            on_branch = slot < prefix or SEES[node][slot - prefix]
            near = positions[slot] > positions[prefix + node] - window
            assert visible[node, slot] == (on_branch and near)


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
@pytest.mark.parametrize("has_hole", [False, True])
def test_chunks_count_slots_behind_the_padding_on_the_left(chunk, padding, has_hole):
    length = 6
    mask = torch.arange(5) >= padding
    mask[3] = not has_hole
    row = TreeRow(TREE, length, mask)
    visible = tree_mask([row], torch.float32, size=6, chunk=chunk)[0, 0] == 0
    positions = [*range(-padding, length - padding), *(length - padding + depth for depth in TREE.depths)]
    for node in range(6):
        for slot in range(length + 6):
            is_hidden = has_hole and slot == 3
            on_branch = padding <= slot < length or (slot >= length and SEES[node][slot - length])
            same_chunk = positions[slot] // chunk == positions[length + node] // chunk
            assert visible[node, slot] == (bool(on_branch) and same_chunk and not is_hidden)


@pytest.mark.parametrize("window", [None, 3])
def test_a_row_that_holds_less_sees_neither_padding_nor_what_lies_behind_its_tree(window):
    small = DraftTree.chain([9, 8])
    rows = [TreeRow(TREE, 5), TreeRow(small, 3, torch.tensor([0, 1]))]
    mask = tree_mask(rows, torch.float32, size=6, window=window)
    assert mask.shape == (2, 1, 6, 11)
    assert torch.equal(mask[0, 0], mask_of(TREE, 5, window=window))
    of_small = mask_of(small, 3, window=window)
    of_small[:, 0] = torch.finfo(torch.float32).min
    seen = mask[1, 0]
    assert torch.equal(seen[:2, :5], of_small)
    assert (seen[:2, 5:] < 0).all()
    assert torch.equal(seen[2:], seen[:1].expand(4, -1))  # copies of node 0: not read, but they see something


@pytest.mark.parametrize("past", [{}, {"window": 3}, {"chunk": 4}])
def test_a_row_sees_the_same_beside_others_and_alone(past):
    rows = [TreeRow(TREE, 5), TreeRow(TREE, 2), TreeRow(TREE, 0), TreeRow(TREE, 9, torch.tensor([0, 0, 1]))]
    together = tree_mask(rows, torch.float32, size=6, **past)
    for row, of_row in zip(rows, together, strict=True):
        alone = tree_mask([row], torch.float32, size=6, **past)[0]
        slots = row.length + len(TREE)
        assert torch.equal(of_row[..., :slots], alone)
        assert (of_row[..., slots:] < 0).all()


@pytest.mark.parametrize("mask_is_repeated", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
def test_folded_attention_equals_attention_with_repeated_heads(groups, mask_is_repeated):
    torch.manual_seed(0)
    query = torch.randn(1, 2 * groups, 6, 8, dtype=torch.float64)
    keys = torch.randn(1, 2, 9, 8, dtype=torch.float64)
    values = torch.randn(1, 2, 9, 5, dtype=torch.float64)
    mask = mask_of(TREE, 3, torch.float64)[None, None]
    repeated = [tensor.repeat_interleave(groups, dim=1) for tensor in (keys, values)]
    expected = scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=0.3)
    if mask_is_repeated:
        mask = mask.repeat(1, 1, groups, 1)
    actual = grouped_query_tree_attention(query, keys, values, mask, scaling=0.3)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("padding", "left", "is_left_alone"),
    [(None, 0, True), ([1, 1], 0, True), ([0, 0, 1], 2, True), ([0, 1, 0, 1], 1, False), ([1, 0], 0, False)],
)
def test_padding_on_the_left_and_elsewhere(padding, left, is_left_alone):
    row = TreeRow(TREE, 5, None if padding is None else torch.tensor(padding))
    assert row.left_padding == left
    assert row.is_padded_left is is_left_alone
