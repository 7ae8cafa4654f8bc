"""One rule for what a node sees, and everything that renders it: masks, tables and compiled attention."""

import re
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.random_trees import random_tree
from lookahead.backends.cpu.kernels.attention.blocks import BLOCK
from lookahead.backends.cpu.layer_attention import attend_in_layer, team_for
from lookahead.backends.cpu.tables import TreeTables
from lookahead.backends.cuda.packed_trees import PackedTrees, columns_for, pack
from lookahead.decoding.attention.branch_order import BranchOrderPlaces
from lookahead.decoding.attention.tree_mask import tree_mask
from lookahead.decoding.attention.visibility import TreeRow

SPARE_SLOTS = 5
"""Slots of the cache behind the longest row."""


class Batch(NamedTuple):
    """A forward pass over draft trees; `window` and `chunk` as for `tree_mask`."""

    rows: list[TreeRow]
    size: int
    window: int | None
    chunk: int | None

    @property
    def past(self):
        return {"window": self.window, "chunk": self.chunk}

    @property
    def slots(self):
        return max(row.length for row in self.rows) + self.size


def slots_seen(row, node, window, chunk):
    """The definition: a node sees its text, padding left out, as far back as the window and chunk begin."""
    text = [*range(row.length), *(row.length + above for above in row.tree.path_to(node))]
    padding, place = row.left_padding, len(text) - 1
    first = padding
    if window is not None:
        first = max(first, place - window + 1)
    if chunk is not None:
        first = max(first, padding + (place - padding) // chunk * chunk)
    return text[first:]


def naive(batch):
    return [
        [slots_seen(row, node, batch.window, batch.chunk) for node in range(len(row.tree))]
        for row in batch.rows
    ]


def of_mask(mask, batch):
    """Read the slots of each node off an additive mask [B, 1, size, slots]."""
    assert set(mask.unique().tolist()) <= {0.0, torch.finfo(mask.dtype).min}
    assert (mask.amax(-1) == 0).all(), "a softmax over nothing is not a number"
    return [
        [(of_node == 0).nonzero()[:, 0].tolist() for of_node in of_row[0, : len(row.tree)]]
        for of_row, row in zip(mask, batch.rows, strict=True)
    ]


def by_tree_mask(batch):
    mask = tree_mask(batch.rows, torch.float32, size=batch.size, **batch.past)
    assert mask.shape == (len(batch.rows), 1, batch.size, batch.slots)
    return of_mask(mask, batch)


def by_packed_trees(batch):
    packed = torch.full((len(batch.rows), columns_for(batch.size)), -7)
    anything = torch.zeros(len(batch.rows), batch.size, dtype=torch.int64)
    pack(packed, anything, anything, batch.rows)
    return of_mask(PackedTrees(packed).mask(batch.slots + SPARE_SLOTS, torch.float32, **batch.past), batch)


def by_ordered_places(batch):
    places = BranchOrderPlaces.of(batch.rows, size=batch.size, **batch.past)
    far = torch.arange(*places.far)
    return [
        [
            torch.cat([far, places.near[index, node]])[places.seen[index, node]].tolist()
            for node in range(len(row.tree))
        ]
        for index, row in enumerate(batch.rows)
    ]


def tables_of(batch):
    """Tables of a model whose other layers see the past in other ways."""
    cache_rows = list(range(len(batch.rows)))[::-1]
    return TreeTables.of(batch.rows, size=batch.size, cache_rows=cache_rows, windows=[3, batch.window])


def by_tables(batch):
    tables, seen = tables_of(batch), []
    for index, row in enumerate(batch.rows):
        start, begin = int(tables.starts[index]), int(tables.begins[index])
        in_order = int(tables.lengths[index]) - start  # places whose slots follow one another
        looked_up = in_order // BLOCK * BLOCK  # the first place whose slot is in the table
        seen.append([])
        for node in range(begin, begin + len(row.tree)):
            places = range(int(tables.firsts[1, node]), int(tables.places[node]) + 1)
            is_looked_up = [not tables.chains[index] and place >= looked_up for place in places]
            seen[-1].append(
                [
                    int(tables.slots[node, place - looked_up]) if by_table else start + place
                    for place, by_table in zip(places, is_looked_up, strict=True)
                ]
            )
    return seen


def by_compiled_attention(batch):
    """Read the slots off attention: of values that are one-hot by slot it returns the weights.

    The weights are those of dense attention; slots that no node of a row sees hold no number.
    """
    expected, rows = naive(batch), len(batch.rows)
    capacity = -(-(batch.slots + SPARE_SLOTS) // 32) * 32  # as wide as a head
    tables, generator = tables_of(batch), torch.Generator().manual_seed(batch.slots)
    queries = torch.randn(rows, 2, batch.size, capacity, generator=generator)
    keys, values = (torch.full((rows, 1, capacity, capacity), torch.nan) for _ in range(2))
    for cache_row, of_row in zip(tables.cache_rows.tolist(), expected, strict=True):
        seen = sorted({slot for of_node in of_row for slot in of_node})
        keys[cache_row, 0, seen] = torch.randn(len(seen), capacity, generator=generator)
        values[cache_row, 0, seen] = torch.eye(capacity)[seen]
    team = team_for(queries, keys, values)
    assert team is not None
    scaling = capacity**-0.5
    weights = attend_in_layer(queries, keys, values, tables, scaling=scaling, window_index=1, team=team)
    for index, (cache_row, of_row) in enumerate(zip(tables.cache_rows.tolist(), expected, strict=True)):
        for node, slots in enumerate(of_row):
            scores = queries[index, :, node].double() @ keys[cache_row, 0, slots].double().T
            dense = (scores * scaling).softmax(-1).float()
            torch.testing.assert_close(weights[index, node][:, slots], dense, rtol=2e-5, atol=2e-5)
    return [
        [weights[index, node, 0].nonzero()[:, 0].tolist() for node in range(len(row.tree))]
        for index, row in enumerate(batch.rows)
    ]


@st.composite
def tree_rows(draw):
    tree = random_tree(draw(st.integers(1, 12)), draw(st.integers(0, 2**32)))
    length = draw(st.one_of(st.integers(0, 200), st.sampled_from([0, 1, 2, 63, 64, 65, 127, 128, 129])))
    padding = None
    if length and draw(st.booleans()):
        hidden = draw(st.integers(0, length - 1))
        padding = (torch.arange(draw(st.integers(hidden + 1, length))) >= hidden).long()
    return TreeRow(tree, length, padding)


@st.composite
def batches(draw):
    rows = draw(st.lists(tree_rows(), min_size=1, max_size=3))
    size = max(len(row.tree) for row in rows) + draw(st.integers(0, 4))
    reach, chunk = (draw(st.one_of(st.integers(1, 16), st.integers(17, 220))) for _ in range(2))
    window, chunk = draw(st.sampled_from([(None, None), (reach, None), (None, chunk), (reach, chunk)]))
    return Batch(rows, size, window, chunk)


RENDERINGS = [by_tree_mask, by_packed_trees, by_ordered_places, by_tables, by_compiled_attention]
WITHOUT_CHUNKS = [by_tables, by_compiled_attention]


@pytest.mark.parametrize("rendering", RENDERINGS, ids=lambda found: re.sub("^by_", "", found.__name__))
@settings(max_examples=150)
@given(batch=batches())
def test_every_rendering_shows_each_node_the_slots_of_its_text_in_order(rendering, batch):
    if rendering in WITHOUT_CHUNKS:
        batch = batch._replace(window=batch.window or batch.chunk, chunk=None)
    assert rendering(batch) == naive(batch)
