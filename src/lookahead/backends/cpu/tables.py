"""The draft trees of a forward pass as arrays that the CPU kernels read."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lookahead.backends.cpu.kernels.attention import SPAN
from lookahead.backends.cpu.kernels.blocks import BLOCK
from lookahead.backends.cpu.plan import Field
from lookahead.decoding.attention.slots import slot_table
from lookahead.decoding.attention.visibility import TreeRow, Visibility
from lookahead.drafting.arrays import Int64Array


@dataclass(frozen=True)
class TreeTables:
    """Where B rows and the n nodes of each row's tree lie in the cache, and what each node sees.

    Attributes:
        cache_rows: int64 [B], the row of the cache that holds each row.
        lengths: int64 [B], slots that hold each row's text; node i is written to slot length + i.
        places: int64 [B, n], each node's own place in its row's text.
        firsts: int64 [windows, B, n], the first place that each node sees, per window.
        slots: int64 [B, n, tail], see `slot_table`.
        spans: Spans that hold all places.
    """

    cache_rows: Int64Array
    lengths: Int64Array
    places: Int64Array
    firsts: Int64Array
    slots: Int64Array
    spans: int

    @classmethod
    def of(
        cls,
        rows: Sequence[TreeRow],
        *,
        size: int,
        cache_rows: Sequence[int] | None = None,
        windows: Sequence[int | None] = (None,),
    ) -> "TreeTables":
        """Return the tables of B trees whose padding is on the left.

        Args:
            rows: B trees.
            size: Nodes of each row in the forward pass; those after a smaller tree are copies of node 0.
            cache_rows: The row of the cache that holds each row, all different; by default 0 to B - 1.
            windows: The different windows of the model's layers; None is a layer that sees all places.
        """
        seen = [Visibility.of(rows, size, window=window) for window in windows]
        lengths = [row.length for row in rows]
        return cls(
            cache_rows=np.array(range(len(rows)) if cache_rows is None else cache_rows, np.int64),
            lengths=np.array(lengths, np.int64),
            places=seen[0].places,
            firsts=np.array([of_window.first for of_window in seen]),
            slots=slot_table([row.tree for row in rows], lengths, size, BLOCK),
            spans=int(seen[0].places.max()) // SPAN + 1,
        )

    @cached_property
    def fields(self) -> dict[Field, int]:
        """The step table's fields of the trees; the addresses are valid as long as this object lives."""
        return {
            Field.ROWS: self.places.shape[0],
            Field.NODES: self.places.shape[1],
            Field.ROWS_AT: self.cache_rows.ctypes.data,
            Field.LENGTHS_AT: self.lengths.ctypes.data,
            Field.PLACES_AT: self.places.ctypes.data,
            Field.FIRSTS_AT: self.firsts.ctypes.data,
            Field.SLOTS_AT: self.slots.ctypes.data,
            Field.TAIL: self.slots.shape[2],
            Field.SPANS: self.spans,
        }
