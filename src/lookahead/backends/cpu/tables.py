"""The draft trees of a forward pass as arrays that the CPU kernels read."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lookahead.backends.cpu.kernels.attention.blocks import BLOCK
from lookahead.backends.cpu.kernels.attention.pieces import MIN_PROMPT, SPAN
from lookahead.backends.cpu.plan import Field
from lookahead.decoding.attention.slots import slots_of_rows
from lookahead.decoding.attention.visibility import TreeRow, first_visible
from lookahead.drafting.arrays import Int64Array


@dataclass(frozen=True)
class TreeTables:
    """Where the nodes of B rows lie in the cache, and what each node sees.

    The nodes of all rows are counted one after the other, N of them.

    Attributes:
        begins: int64 [B + 1], the first node of each row, and N.
        cache_rows: int64 [B], the row of the cache that holds each row.
        lengths: int64 [B], slots that hold each row's text; its i-th node is written to slot length + i.
        starts: int64 [B], the slot of each row's first token: the slots before it are padding.
        chains: int64 [B], 1 for a row whose nodes are a chain, else 0.
        rows: int64 [N], the row of each node.
        places: int64 [N], each node's own place in its row's text, which begins after the padding.
        firsts: int64 [windows, N], the first place that each node sees, per window.
        slots: int64 [N, tail], see `slot_table`; not set for chains.
        spans: Spans that hold all places.
    """

    begins: Int64Array
    cache_rows: Int64Array
    lengths: Int64Array
    starts: Int64Array
    chains: Int64Array
    rows: Int64Array
    places: Int64Array
    firsts: Int64Array
    slots: Int64Array
    spans: int

    @classmethod
    def of(
        cls,
        rows: Sequence[TreeRow],
        *,
        size: int | None = None,
        cache_rows: Sequence[int] | None = None,
        windows: Sequence[int | None] = (None,),
    ) -> "TreeTables":
        """Return the tables of B trees whose padding is on the left.

        Args:
            rows: B trees.
            size: Nodes of each row in the forward pass; those after a smaller tree are copies of node 0. None
                for the nodes that each row has.
            cache_rows: The row of the cache that holds each row, all different; by default 0 to B - 1.
            windows: The different windows of the model's layers; None is a layer that sees all places.
        """
        sizes = [len(row.tree) if size is None else size for row in rows]
        begins = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        starts = np.array([row.left_padding for row in rows], np.int64)
        lengths = np.array([row.length for row in rows], np.int64)
        of_node = np.repeat(np.arange(len(rows)), sizes)
        places = (lengths - starts)[of_node]
        for row, begin in zip(rows, begins, strict=False):
            places[begin : begin + len(row.tree)] += row.tree.depths
        chains = [
            row.tree.is_chain and len(row.tree) == of_row for row, of_row in zip(rows, sizes, strict=True)
        ]
        return cls(
            begins=begins,
            cache_rows=np.array(range(len(rows)) if cache_rows is None else cache_rows, np.int64),
            lengths=lengths,
            starts=starts,
            chains=np.array(chains, np.int64),
            rows=of_node,
            places=places,
            firsts=np.array([first_visible(places, 0, window) for window in windows]),
            slots=slots_of_rows(rows, sizes, chains, BLOCK),
            spans=int(places.max()) // SPAN + 1,
        )

    @cached_property
    def summed_nodes(self) -> int:
        """The nodes up to the last one whose spans are summed up by `gather`: of a row that is no prompt."""
        ends = [
            end
            for end, row in zip(self.begins[1:], range(len(self.lengths)), strict=True)
            if not self._is_prompt(row)
        ]
        return int(max(ends, default=0))

    def _is_prompt(self, row: int) -> bool:
        nodes = self.begins[row + 1] - self.begins[row]
        return bool(self.chains[row]) and nodes >= MIN_PROMPT

    @cached_property
    def fields(self) -> dict[Field, int]:
        """The step table's fields of the trees; the addresses are valid as long as this object lives."""
        return {
            Field.ROWS: len(self.lengths),
            Field.NODES: len(self.places),
            Field.BEGINS_AT: self.begins.ctypes.data,
            Field.ROWS_AT: self.cache_rows.ctypes.data,
            Field.LENGTHS_AT: self.lengths.ctypes.data,
            Field.STARTS_AT: self.starts.ctypes.data,
            Field.CHAINS_AT: self.chains.ctypes.data,
            Field.PLACES_AT: self.places.ctypes.data,
            Field.FIRSTS_AT: self.firsts.ctypes.data,
            Field.SLOTS_AT: self.slots.ctypes.data,
            Field.TAIL: self.slots.shape[1],
            Field.SPANS: self.spans,
            Field.ROW_OF_NODE_AT: self.rows.ctypes.data,
        }
