"""Draft trees as a fused step is told of them: arrays, and where in its table their addresses stand."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lookahead.backends.cpu.kernels.attention import SPAN
from lookahead.backends.cpu.kernels.blocks import BLOCK
from lookahead.backends.cpu.plan import Field
from lookahead.decoding.attention.slots import slot_table
from lookahead.decoding.attention.visibility import TreeRow
from lookahead.drafting.arrays import Int64Array


@dataclass(frozen=True)
class TreeTables:
    """Where the nodes of a batch of draft trees stand, and where their text lies; see `attention.Trees`.

    Attributes:
        start: the slot of node 0 in all rows.
        lengths: int64 [B].
        paddings: int64 [B].
        depths: int64 [B, n].
        slots: int64 [B, n, tail].
        spans: that hold all places.
    """

    start: int
    lengths: Int64Array
    paddings: Int64Array
    depths: Int64Array
    slots: Int64Array
    spans: int

    @classmethod
    def of(cls, rows: Sequence[TreeRow], *, start: int, size: int) -> "TreeTables":
        """Return the tables of draft trees, padded on the left.

        Args:
            rows: B trees.
            start: the slot of node 0 in all rows.
            size: nodes of a row in the forward; those behind a tree are like another node 0.
        """
        trees = [row.tree for row in rows]
        depths = np.zeros((len(rows), size), np.int64)
        for of_row, tree in zip(depths, trees, strict=True):
            of_row[: len(tree)] = tree.depths
        lengths = np.array([row.length for row in rows], np.int64)
        paddings = np.array([row.left_padding for row in rows], np.int64)
        spans = int(((lengths + depths.max(axis=1)) // SPAN).max()) + 1
        slots = slot_table(trees, lengths.tolist(), start, size, BLOCK)
        return cls(start, lengths, paddings, depths, slots, spans)

    @cached_property
    def fields(self) -> dict[Field, int]:
        """What a step's table says of the trees; the addresses hold as long as this object lives."""
        return {
            Field.ROWS: self.depths.shape[0],
            Field.NODES: self.depths.shape[1],
            Field.START: self.start,
            Field.LENGTHS_AT: self.lengths.ctypes.data,
            Field.PADDINGS_AT: self.paddings.ctypes.data,
            Field.DEPTHS_AT: self.depths.ctypes.data,
            Field.SLOTS_AT: self.slots.ctypes.data,
            Field.TAIL: self.slots.shape[2],
            Field.SPANS: self.spans,
        }
