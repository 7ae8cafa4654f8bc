"""The arena against lists, whatever joins and leaves, is appended, kept and forgotten, in any order.

`make test` has a quarter of the examples of `make verify`.
"""

from itertools import count
from unittest.mock import patch

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from helpers.samples import examples
from lookahead.decoding import kv_arena
from lookahead.decoding.kv_arena import KVArena
from oracles.naive_arena import NaiveArena

LAYERS, HEADS = 2, 2
SIZES = st.sampled_from([1, 1, 2, 3, 5, 8, 20])
PADDING = -1.0
"""Stands for a slot that holds zeros."""


def roomy(shape, like):
    """Memory that is larger than asked for, as a pool would lend it."""
    return like.new_zeros((*shape[:3], shape[3] + 3, shape[4]))


class LifeOfAnArena(RuleBasedStateMachine):
    """Keys and values of a token are filled with the token's own number, which identifies them in any slot.

    Blocks are small, so that the arena grows often. There always is an active row.
    """

    def __init__(self):
        super().__init__()
        self.small_blocks = patch.object(kv_arena, "GROWTH_SLOTS", 4)
        self.small_blocks.start()

    def teardown(self):
        self.small_blocks.stop()

    @initialize(
        widths=st.sampled_from([(3, 5), (4, 4)]),
        capacity=st.integers(1, 12),
        max_slots=st.sampled_from([None, None, 16, 41]),
        max_rows=st.integers(1, 4),
        allocate=st.sampled_from([None, roomy]),
    )
    def create(self, widths, capacity, max_slots, max_rows, allocate):
        self.widths = widths
        self.arena = KVArena(LAYERS, capacity, max_slots, max_rows, allocate)
        self.naive = NaiveArena(LAYERS, max_rows)
        self.numbers = count()
        for _ in range(max_rows):
            self.join()
        self.begin([0])

    def new_tokens(self, size):
        """[active rows, layers, size], as lists."""
        return [
            [[float(next(self.numbers)) for _ in range(size)] for _ in range(LAYERS)]
            for _ in self.naive.active
        ]

    def states(self, tokens, width):
        """[rows, heads, size, width] of tokens [rows, size]; head 1 holds the number plus a half."""
        filled = torch.tensor(tokens)[:, None, :, None].expand(-1, HEADS, -1, width)
        return (filled + torch.tensor([0.0, 0.5])[:, None, None]).masked_fill(filled == PADDING, 0.0)

    def assert_holds(self, keys, values, row, layer, tokens):
        """Of one row: keys and values [heads, slots, width] begin with these tokens."""
        for states, width in ((keys, self.widths[layer]), (values, self.widths[layer] + 1)):
            expected = self.states([tokens], width)[0] if tokens else states[:, :0]
            assert torch.equal(states[:, : len(tokens)], expected), (row, layer)

    def begin(self, rows):
        self.arena.set_active_rows(rows)
        self.naive.begin(rows)

    @rule()
    def join(self):
        if self.naive.free:
            assert self.arena.add_row() == self.naive.join()
        else:
            with pytest.raises(IndexError):
                self.arena.add_row()

    @rule(data=st.data())
    def leave(self, data):
        row = data.draw(st.sampled_from(sorted(self.naive.kept)))
        addresses = self.arena.addresses
        self.arena.remove_row(row)
        self.naive.leave(row)
        assert self.arena.addresses == addresses
        if not self.naive.kept:
            self.join()
        if not self.naive.active:
            self.begin([max(self.naive.kept)])

    @rule()
    def move(self):
        highest, target = max(self.naive.kept), self.arena.lowest_free_row
        if target < highest:
            self.arena.move_row(highest, target)
            self.naive.move(highest, target)
            if not self.naive.active:
                self.begin([target])

    @rule(data=st.data(), size=SIZES, is_kept=st.booleans())
    def forward(self, data, size, is_kept):
        """Append to any rows in any order, and keep all of it or wait for what comes."""
        rows = data.draw(st.permutations(sorted(self.naive.kept)))
        self.begin(rows[: data.draw(st.integers(1, len(rows)))])
        self.append(size, is_reversed=False)
        if is_kept:
            self.arena.keep_first()
            self.naive.commit(size)

    @rule(size=SIZES, is_reversed=st.booleans())
    def append(self, size, is_reversed):
        tokens = self.new_tokens(size)
        for layer in reversed(range(LAYERS)) if is_reversed else range(LAYERS):
            for row, of_row in zip(self.naive.active, tokens, strict=True):
                self.naive.append(row, layer, of_row[layer])
            of_layer = [of_row[layer] for of_row in tokens]
            keys, values = self.arena.append(
                layer,
                self.states(of_layer, self.widths[layer]),
                self.states(of_layer, self.widths[layer] + 1),
            )
            self.assert_shown(keys, values, layer)

    @rule(size=SIZES)
    def claim(self, size):
        """Claimed memory replaces what was appended and not kept."""
        self.begin(self.naive.active)
        claimed = self.arena.claim_for_writing(size)
        if claimed is None:
            return
        for row, of_row in zip(self.naive.active, self.new_tokens(size), strict=True):
            slots = slice(self.arena.lengths[row], self.arena.lengths[row] + size)
            for layer, tokens in enumerate(of_row):
                self.naive.append(row, layer, tokens)
                for memory in claimed:
                    memory[layer, row, :, slots] = self.states([tokens], memory.shape[-1])[0]

    @rule(data=st.data())
    def claim_and_keep_prompts(self, data):
        """Each row gets as many tokens as it wants, and keeps all of them."""
        rows = data.draw(st.permutations(sorted(self.naive.kept)))
        rows = rows[: data.draw(st.integers(1, len(rows)))]
        sizes = {row: data.draw(SIZES) for row in rows}
        self.begin(rows)
        claimed = self.arena.claim_for_writing(max(sizes.values()), sizes)
        if claimed is None:
            return
        for row, size in sizes.items():
            slots = slice(self.arena.lengths[row], self.arena.lengths[row] + size)
            for layer in range(LAYERS):
                tokens = [float(next(self.numbers)) for _ in range(size)]
                self.naive.append(row, layer, tokens)
                for memory in claimed:
                    memory[layer, row, :, slots] = self.states([tokens], memory.shape[-1])[0]
        paths = {row: range(size) for row, size in sizes.items()}
        self.arena.keep(paths)
        self.naive.keep(paths)

    @rule(data=st.data())
    def pad(self, data):
        """Zeros behind the texts of some rows, in all layers that there are."""
        if len(self.arena._slab_of_layer) < LAYERS:
            return
        rows = data.draw(st.lists(st.sampled_from(sorted(self.naive.kept)), min_size=1, unique=True))
        paddings = {row: data.draw(st.integers(0, 9)) for row in rows}
        self.arena.pad(paddings)
        self.naive.begin(rows)
        for row, slots in paddings.items():
            for of_layer in self.naive.kept[row]:
                of_layer.extend([PADDING] * slots)

    @rule(data=st.data())
    def keep(self, data):
        """Paths of any of the active rows."""
        paths = {}
        for row in data.draw(st.lists(st.sampled_from(self.naive.active), unique=True)):
            nodes = range(len(self.naive.appended[row][0]))
            paths[row] = sorted(data.draw(st.sets(st.sampled_from(nodes), max_size=12))) if nodes else []
        self.arena.keep(paths)
        self.naive.keep(paths)

    @rule(data=st.data())
    def commit(self, data):
        appended = len(self.naive.appended[self.naive.active[0]][0])
        tokens = data.draw(st.integers(0, appended))
        self.arena.keep_first(None if tokens == appended else tokens)
        self.naive.commit(tokens)

    @rule()
    def clear(self):
        self.arena.clear()
        self.naive.clear()

    def assert_shown(self, keys, values, layer):
        """[active rows, heads, slots, width], up to the end of the longest."""
        active, end = self.naive.active, max(len(self.naive.held(row, layer)) for row in self.naive.active)
        assert keys.shape == (len(active), HEADS, end, self.widths[layer])
        assert values.shape == (len(active), HEADS, end, self.widths[layer] + 1)
        assert keys.isfinite().all(), "what a mask hides behind a shorter row must still be a number"
        assert values.isfinite().all()
        for row, of_keys, of_values in zip(active, keys, values, strict=True):
            self.assert_holds(of_keys, of_values, row, layer, self.naive.held(row, layer))

    @invariant()
    def active_rows_hold_what_the_lists_hold(self):
        assert list(self.arena.active) == self.naive.active
        if self.naive.active and self.arena.addresses:
            for layer in range(LAYERS):
                assert self.arena.length(layer) == self.naive.length()
                self.assert_shown(*self.arena.view(layer), layer)

    @invariant()
    def all_other_rows_do_too(self):
        for row, layers in self.naive.kept.items():
            assert self.arena.lengths[row] == len(layers[0])
            for layer, tokens in enumerate(layers):
                if tokens:
                    keys, values = self.arena.memory(layer)
                    self.assert_holds(keys[row], values[row], row, layer, tokens)
        assert all(self.arena.lengths[row] == 0 for row in self.naive.free)


TestLifeOfAnArena = LifeOfAnArena.TestCase
TestLifeOfAnArena.pytestmark = [pytest.mark.matrix]
TestLifeOfAnArena.settings = settings(max_examples=examples(400), stateful_step_count=50, deadline=None)
