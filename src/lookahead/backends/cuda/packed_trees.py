"""Draft trees packed as one tensor of integers: all that changes from step to step, read on the device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lookahead.decoding.attention.visibility import TreeRow, first_visible
from lookahead.drafting.arrays import Int64Array
from lookahead.drafting.tree import DraftTree

NODE_BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
"""Nodes that a step is captured for; more than 64 do not fit in the bits of an integer."""
MAX_MOVES = 16
"""Moves in the cache that a row's part of the tensor has room for."""
_SMALLEST_CONTEXT = 256
_COLUMNS = 4
"""Columns of each node: token, position, depth, ancestors."""
_SCALARS = 2
"""Columns of each row: its length, its padding on the left."""
_REST = _SCALARS + 2 * MAX_MOVES
"""Columns behind those of the nodes: the scalars, then the sources and the targets of moves."""

Moves = Mapping[int, Sequence[tuple[int, int]]]
"""By row slot, source and target of each slot that moves in the cache before the step."""


def node_bucket(nodes: int) -> int | None:
    """Return the smallest captured size with room for this many nodes; None if every size is too small."""
    return next((bucket for bucket in NODE_BUCKETS if bucket >= nodes), None)


def context_slots(slots: int) -> int:
    """Return the slots that a step for so many attends to: at most a quarter more, or a multiple of 256."""
    step = max(_SMALLEST_CONTEXT, 1 << max(0, slots - 1).bit_length() >> 3)
    return -(-slots // step) * step


def columns_for(nodes: int) -> int:
    """Return the columns of the tensor for trees of so many nodes."""
    return _COLUMNS * nodes + _REST


@dataclass(frozen=True)
class PackedTrees:
    """A batch's trees as one tensor of integers, and what a step reads out of it on the device.

    Attributes:
        packed: int64 [B, columns]: tokens, positions, depths, ancestors as bits; length, left padding; the
            sources and the targets of moves in the cache.
    """

    packed: Tensor

    @property
    def size(self) -> int:
        """Nodes of each row: n."""
        return (self.packed.shape[1] - _REST) // _COLUMNS

    @property
    def tokens(self) -> Tensor:
        """int64 [B, n]."""
        return self._column(0)

    @property
    def positions(self) -> Tensor:
        """int64 [B, n]."""
        return self._column(1)

    @property
    def slots(self) -> Tensor:
        """int64 [B, n], where the nodes' keys and values are written."""
        return self._scalars[:, :1] + torch.arange(self.size, device=self.packed.device)

    @property
    def moves(self) -> tuple[Tensor, Tensor]:
        """Sources and targets of moves in the cache, each int64 [B, MAX_MOVES]; slot 0 stays where it is."""
        return self.packed[:, -2 * MAX_MOVES : -MAX_MOVES], self.packed[:, -MAX_MOVES:]

    def mask(
        self, slots: int, dtype: torch.dtype, *, window: int | None = None, chunk: int | None = None
    ) -> Tensor:
        """Return what `tree_mask` returns, [B, 1, n, slots], computed where the trees are.

        Padding is on the left only; a tree that is smaller than others is padded with copies of node 0.
        """
        length, padding = self._scalars[:, :1], self._scalars[:, 1:]
        slot = torch.arange(slots, device=self.packed.device)[None]
        node = (slot - length).clamp(0, self.size - 1)  # [B, slots]
        is_tree = (slot >= length) & (slot < length + self.size)
        depths = self._column(2)
        place = torch.where(is_tree, length + depths.gather(1, node), slot)[:, None]
        first = first_visible(length + depths, padding, window, chunk)[:, :, None]
        is_ancestor = (self._column(3)[:, :, None] >> node[:, None]) & 1 == 1
        is_cached = (slot < length)[:, None]
        seen = (place >= first) & torch.where(is_tree[:, None], is_ancestor, is_cached)
        lowest = torch.finfo(dtype).min
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, lowest)[:, None]

    @property
    def _scalars(self) -> Tensor:
        begin = _COLUMNS * self.size
        return self.packed[:, begin : begin + _SCALARS]

    def _column(self, index: int) -> Tensor:
        return self.packed[:, index * self.size : (index + 1) * self.size]


def pack(
    packed: Tensor, tokens: Tensor, positions: Tensor, rows: Sequence[TreeRow], moves: Moves | None = None
) -> None:
    """Write a batch's trees as `PackedTrees` reads them.

    Args:
        packed: int64 [B, columns], on the CPU.
        tokens: int64 [B, n]; after a tree anything.
        positions: int64 [B, n].
        rows: B trees of n nodes at most, padded on the left at most.
        moves: At most `MAX_MOVES` of each row; none if not given.
    """
    size, table = PackedTrees(packed).size, packed.numpy()
    columns = table[:, : _COLUMNS * size].reshape(len(rows), _COLUMNS, size)  # a view
    columns[:, 0], columns[:, 1] = tokens.numpy(), positions.numpy()
    columns[:, 2], columns[:, 3] = 0, 1  # after a tree: depth 0, sees node 0
    rest = table[:, _COLUMNS * size :]
    for of_row, scalars, row in zip(columns, rest, rows, strict=True):
        nodes = len(row.tree)
        of_row[2, :nodes] = row.tree.depths
        of_row[3, :nodes] = _ancestor_bits(row.tree)
        scalars[:_SCALARS] = row.length, row.left_padding
    rest[:, _SCALARS:] = 0
    for index, pairs_of_row in (moves or {}).items():
        pairs = rest[index, _SCALARS:].reshape(2, MAX_MOVES)  # a view
        pairs[:, : len(pairs_of_row)] = np.array(pairs_of_row, np.int64).T


def _ancestor_bits(tree: DraftTree) -> Int64Array:
    """Return int64 [n]: in each node's bits, which nodes it sees."""
    bits = np.zeros((len(tree), NODE_BUCKETS[-1]), np.bool_)
    bits[:, : len(tree)] = tree.ancestors()
    return np.packbits(bits, axis=1, bitorder="little").view("<i8")[:, 0].astype(np.int64)
