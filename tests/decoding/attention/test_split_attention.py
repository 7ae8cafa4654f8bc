"""Attention in two parts, put together by their log-sum-exp: exactly attention in one."""

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from lookahead.decoding.attention.split_attention import SeenByAll, can_split, split_tree_attention
from lookahead.decoding.attention.tree_mask import tree_mask
from lookahead.decoding.attention.visibility import TreeRow
from lookahead.drafting.tree import DraftTree

TREE = DraftTree(
    np.array([9, 8, 7, 6, 5, 4], np.int32),
    np.array([-1, 0, 1, 0, 3, 3], np.int32),
    np.array([0, 1, 2, 1, 2, 2], np.int32),
    np.array([1, 0.9, 0.8, 0.7, 0.6, 0.5]),
)
PADDED = torch.tensor([0, 0, 1, 1])
HOLED = torch.tensor([0, 1, 0, 1])
CASES = {
    "one row": [TreeRow(TREE, 40)],
    "padding": [TreeRow(TREE, 40, PADDED)],
    "a gap": [TreeRow(TREE, 40, PADDED), TreeRow(DraftTree.chain([1, 2]), 33, PADDED)],
}


@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize("window", [None, 43])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("rows", CASES.values(), ids=CASES.keys())
def test_split_attention_is_attention_in_one(rows, groups, window, scaling):
    torch.manual_seed(0)
    query = torch.randn(len(rows), 2 * groups, 6, 8, dtype=torch.float64) * 4
    keys = torch.randn(len(rows), 2, 46, 8, dtype=torch.float64)
    values = torch.randn(len(rows), 2, 46, 5, dtype=torch.float64)
    mask = tree_mask(rows, torch.float64, start=40, size=6, window=window)
    seen = SeenByAll.of(rows, window=window)
    assert seen is not None
    repeated = [part.repeat_interleave(groups, dim=1) for part in (keys, values)]
    expected = scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=scaling)
    untouched = mask.clone()
    mask[..., seen.begin : seen.end] = torch.nan  # not read
    actual = split_tree_attention(query, keys, values, mask, seen, scaling=scaling)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    assert (untouched[..., seen.begin : seen.end] == 0).all()
    assert (untouched[..., : seen.begin] < 0).all()


@pytest.mark.parametrize(
    ("rows", "limits", "expected"),
    [
        ([TreeRow(TREE, 40)], {}, (0, 40)),
        ([TreeRow(TREE, 40, PADDED)], {}, (2, 40)),
        ([TreeRow(TREE, 40), TreeRow(TREE, 31)], {}, (0, 31)),
        ([TreeRow(TREE, 40, PADDED), TreeRow(TREE, 40)], {}, None),
        ([TreeRow(TREE, 40, HOLED)], {}, None),
        ([TreeRow(TREE, 40)], {"window": 43}, (0, 40)),  # the deepest node, at place 42, just sees 0
        ([TreeRow(TREE, 40)], {"window": 42}, None),
        ([TreeRow(TREE, 40, PADDED)], {"window": 41}, (2, 40)),
        ([TreeRow(TREE, 40)], {"chunk": 100}, None),
    ],
)
def test_where_there_is_a_part_that_all_nodes_see(rows, limits, expected):
    seen = SeenByAll.of(rows, **limits)
    assert (seen and (seen.begin, seen.end)) == expected


def test_on_the_cpu_one_pass_is_as_fast():
    states = torch.zeros(1, 1, 4096, 8)
    assert not can_split(states[:, :, :6], states, states)
