"""Attention of each node to its own branch: the values of dense attention, the bits of the text alone."""

import numpy as np
import pytest
import torch

from lookahead.decoding.attention.branch_order import BLOCK, BranchOrderPlaces, ordered_attention
from lookahead.decoding.attention.tree_mask import tree_mask
from lookahead.decoding.attention.visibility import TreeRow
from lookahead.drafting.tree import DraftTree

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
HEADS, KEY_HEADS, WIDTH, VALUE_WIDTH = 6, 2, 16, 12
SCALING = WIDTH**-0.5

#        0
#      / | \
#     1  3  5
#     |  |  |
#     2  4  6
#           |
#           7
TREE = DraftTree(
    np.arange(9, 1, -1, dtype=np.int32),
    np.array([-1, 0, 1, 0, 3, 0, 5, 6], np.int32),
    np.array([0, 1, 2, 1, 2, 1, 2, 3], np.int32),
    np.ones(8),
)
BRANCH = [0, 5, 6, 7]


def padding(hidden, length):
    return (torch.arange(length) >= hidden).long()


ROWS = {
    "one row": [TreeRow(TREE, 5)],
    "across the end of a block": [TreeRow(TREE, 62)],
    "long": [TreeRow(TREE, 200)],
    "rows of several lengths": [
        TreeRow(TREE, 70),
        TreeRow(DraftTree.root_only(3), 64),
        TreeRow(DraftTree.chain([5, 6, 7]), 3),
    ],
    "padding on the left": [
        TreeRow(TREE, 40, padding(7, 20)),
        TreeRow(TREE, 35, padding(0, 20)),
    ],
}
PASTS = {"all": {}, "window": {"window": 6}, "chunks": {"chunk": 8}}


def tensors(rows, size, dtype=torch.float64):
    """Queries, keys and values of the trees and of the texts before them."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(HEADS, size, WIDTH)] + [
        (KEY_HEADS, max(row.length for row in rows) + size, width) for width in (WIDTH, VALUE_WIDTH)
    ]
    return [
        torch.randn(len(rows), *shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes
    ]


def slots_in_order(places, row, node):
    """The slots that a node sees, in the order in which they are summed."""
    far = torch.arange(*places.far)
    slots = torch.cat([far, places.near[row, node]])
    return slots[places.seen[row, node]].tolist()


@pytest.mark.parametrize("past", PASTS)
@pytest.mark.parametrize("name", ROWS)
def test_a_node_finds_the_slots_that_the_mask_shows_it(name, past):
    rows = ROWS[name]
    where = {"size": 11, **PASTS[past]}
    shown = tree_mask(rows, torch.float32, **where)[:, 0] == 0
    places = BranchOrderPlaces.of(rows, **where)
    assert places.near.shape[2] % BLOCK == 0
    assert places.seen.shape[2] == places.near.shape[2] + places.far[1] - places.far[0]
    for row, of_row in enumerate(rows):
        for node in range(len(of_row.tree)):
            assert sorted(slots_in_order(places, row, node)) == shown[row, node].nonzero()[:, 0].tolist()


def test_places_are_in_the_order_of_the_text():
    for length in (62, 200):
        places = BranchOrderPlaces.of([TreeRow(TREE, length)], size=8)
        at = [*range(length), length, length + 5, length + 6, length + 7]
        assert slots_in_order(places, 0, 7) == at


@pytest.mark.parametrize("length", range(120, 150, 3))
def test_which_blocks_are_looked_up_is_a_matter_of_a_nodes_own_place(length):
    """A node deep in a tree and the same one step by step have the same blocks in the same products."""
    as_leaf = BranchOrderPlaces.of([TreeRow(DraftTree.chain([1] * 8), length)], size=8)
    alone = BranchOrderPlaces.of([TreeRow(DraftTree.root_only(1), length + 7)], size=8)
    in_far = [places.seen[0, node, : places.far[1]].sum() for places, node in ((as_leaf, 7), (alone, 0))]
    assert in_far[0] == in_far[1]


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("past", PASTS)
@pytest.mark.parametrize("name", ROWS)
def test_the_values_of_dense_attention(name, past, softcap):
    rows = ROWS[name]
    where = {"size": 11, **PASTS[past]}
    query, keys, values = tensors(rows, 11)
    groups = HEADS // KEY_HEADS
    scores = query @ keys.repeat_interleave(groups, 1).transpose(2, 3) * SCALING
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    shares = (scores + tree_mask(rows, torch.float64, **where)).softmax(-1)
    dense = shares @ values.repeat_interleave(groups, 1)
    places = BranchOrderPlaces.of(rows, **where)
    attended = ordered_attention(query, keys, values, places, scaling=SCALING, softcap=softcap)
    for row, of_row in enumerate(rows):
        nodes = len(of_row.tree)
        torch.testing.assert_close(attended[row, :, :nodes], dense[row, :, :nodes])


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("length", [3, 62, 64, 69, 130, 134])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_scattered_branch_has_the_bits_of_a_line(dtype, length, softcap):
    """The branch's nodes lie apart in the tree and follow each other in the line; unseen slots hold NaN."""
    size = 8
    query, keys, values = tensors([TreeRow(TREE, length)], size, dtype)
    line = DraftTree.chain([1, 2, 3, 4])

    def attended(tree, nodes):
        """Each of the branch's nodes at its place in a tree."""
        rows = [TreeRow(tree, length)]
        at = [length + node for node in nodes]
        moved = [torch.full_like(part, torch.nan) for part in (keys, values)]
        for part, source in zip(moved, (keys, values), strict=True):
            part[:, :, :length] = source[:, :, :length]
            part[:, :, at] = source[:, :, length : length + len(nodes)]
        asked = torch.zeros_like(query)
        asked[:, :, nodes] = query[:, :, : len(nodes)]
        places = BranchOrderPlaces.of(rows, size=size)
        return ordered_attention(asked, *moved, places, scaling=SCALING, softcap=softcap)[:, :, nodes]

    scattered = attended(TREE, BRANCH)
    assert scattered.isfinite().all(), "unseen slots hold no number"
    assert torch.equal(scattered, attended(line, [0, 1, 2, 3]))
    longer = [torch.nn.functional.pad(part, (0, 0, 0, 3), value=torch.nan) for part in (keys, values)]
    for depth in range(4):  # and of tokens that come one by one
        places = BranchOrderPlaces.of([TreeRow(DraftTree.root_only(1), length + depth)], size=size)
        asked = query.roll(-depth, 2)
        alone = ordered_attention(asked, *longer, places, scaling=SCALING, softcap=softcap)
        assert torch.equal(alone[:, :, 0], scattered[:, :, depth])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("beside", [1, 60, 64, 150])
def test_a_row_has_the_same_bits_beside_a_longer_one_and_beside_an_equal_one(beside, dtype):
    """What else is in the forward pass changes no bit of a row, nor where the row is."""
    size, length = 8, 70
    longer = TreeRow(TREE, length + beside)
    query, keys, values = tensors([longer, longer], size, dtype)
    keys[0, :, length + size :] = values[0, :, length + size :] = torch.nan

    def attended(order, rows):
        places = BranchOrderPlaces.of(rows, size=size)
        given = [part[order] for part in (query, keys, values)]
        return ordered_attention(*given, places, scaling=SCALING)[order.index(0)]

    expected = attended([0, 0], [TreeRow(TREE, length)] * 2)
    assert expected.isfinite().all()
    assert torch.equal(attended([0, 1], [TreeRow(TREE, length), longer]), expected)
    assert torch.equal(attended([1, 0], [longer, TreeRow(TREE, length)]), expected)
