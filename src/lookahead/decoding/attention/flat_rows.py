"""Forward passes over the nodes of all rows, one row after the other: each row has its own number of them.

    row A   tree of 2   a0 a1         products     [1, 4] tokens: a0 a1 b0 c0
    row B   tree of 1   b0            attention    a0 a1 to A's text; b0 and c0 to B's and C's
    row C   tree of 1   c0

Products of weights, which take most of the time, do not know of rows. Attention is computed for one group of
rows after the other: neighbours in the cache whose trees have the same number of nodes. So no row sees
another one's text, not even behind a mask, and nothing of the cache is copied.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lookahead.decoding.attention.tree_mask import tree_mask
from lookahead.decoding.attention.visibility import TreeRow

_MAX_LENGTH_RATIO = 2.0
"""Rows in a group attend to as many slots as the longest of them, so none is more than this much longer."""
_TOKENS_PER_GROUP = 1.0
"""What the calls of one more group of rows take, as the time of so many tokens; 2.4 ms where a token takes
2.2 (SmolLM2-135M in float32, two cores). In larger models, tokens take more time and calls do not."""


@dataclass(frozen=True)
class RowGroup:
    """Rows that are attended to together.

    Attributes:
        rows: The rows, neighbours in the cache.
        first_row: Row slot of the first.
        first_node: Its first node among all nodes.
        size: Nodes of each row.
    """

    rows: Sequence[TreeRow]
    first_row: int
    first_node: int
    size: int

    @property
    def slots(self) -> int:
        """Slots of the cache that the longest row holds with its nodes."""
        return max(row.length for row in self.rows) + self.size

    def takes(self, row: TreeRow, slot: int) -> bool:
        """Return whether a row in this slot of the cache may join behind the others."""
        lengths = [row.length + self.size, *(other.length + self.size for other in self.rows)]
        is_next = slot == self.first_row + len(self.rows) and len(row.tree) == self.size
        return is_next and max(lengths) <= _MAX_LENGTH_RATIO * min(lengths)

    def queries(self, states: Tensor) -> Tensor:
        """Return the group's part [rows, heads, size, width] of all nodes' states, [1, heads, N, width]."""
        _, heads, _, width = states.shape
        nodes = states[0, :, self.first_node : self.first_node + len(self.rows) * self.size]
        return nodes.view(heads, len(self.rows), self.size, width).transpose(0, 1)

    def texts(self, memory: Tensor) -> Tensor:
        """Return what the group holds, [rows, heads, slots, width], of the memory of all rows."""
        return memory[self.first_row : self.first_row + len(self.rows), :, : self.slots]


class FlatRows:
    """The rows of a forward pass whose nodes lie one after the other.

    Args:
        rows: B trees.
        cache_rows: The row slot of each, ascending.

    Attributes:
        sizes: Nodes of each row.
        groups: The rows that are attended to together, in order.
    """

    def __init__(self, rows: Sequence[TreeRow], cache_rows: Sequence[int]) -> None:
        self._rows, self._cache_rows = rows, cache_rows
        self.sizes = [len(row.tree) for row in rows]
        self.groups = list(_groups(rows, cache_rows))
        self._targets: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def saved_tokens(self, slots_per_token: float) -> float:
        """Return how much less than a rectangle this takes, as the time of so many tokens; below 0 if more.

        A rectangle computes the width of the largest tree in each row, and each row attends to as many slots
        as the longest one. Here attention takes more calls.

        Args:
            slots_per_token: Slots of one row that are attended to in the time that a token's products take.
        """
        rows, width = len(self.sizes), max(self.sizes)
        longest = max(row.length for row in self._rows) + width
        slots = rows * longest - sum(len(group.rows) * group.slots for group in self.groups)
        tokens = rows * width - sum(self.sizes)
        return tokens + slots / slots_per_token - _TOKENS_PER_GROUP * (len(self.groups) - 1)

    def write(self, memory: Tensor, states: Tensor) -> None:
        """Write the keys or values of all nodes, [1, heads, N, width], each behind its row's text.

        Raises:
            TypeError: The memory's dtype is narrower than that of the states.
        """
        if torch.promote_types(memory.dtype, states.dtype) != memory.dtype:
            message = f"the cache holds {memory.dtype} and was given {states.dtype}"
            raise TypeError(message)
        rows, slots = self._targets_on(memory.device)
        memory.transpose(1, 2)[rows, slots] = states[0].transpose(0, 1).to(memory.dtype)

    def masks(self, dtype: torch.dtype, window: int | None = None, chunk: int | None = None) -> list[Tensor]:
        """Return each group's mask, as `tree_mask` does."""
        return [
            tree_mask(group.rows, dtype, size=group.size, window=window, chunk=chunk) for group in self.groups
        ]

    def attend(
        self,
        attention: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
        query: Tensor,
        memory: tuple[Tensor, Tensor],
        masks: Iterable[Tensor],
    ) -> Tensor:
        """Return what all nodes attend to, [1, N, heads, value width].

        Args:
            attention: Maps queries [rows, heads, n, width], keys, values and a mask to [rows, n, heads, value
                width].
            query: [1, heads, N, width].
            memory: Keys and values [rows, heads, capacity, width], in which the nodes were written.
            masks: Of each group.
        """
        found = []
        for group, mask in zip(self.groups, masks, strict=True):
            keys, values = (group.texts(part) for part in memory)
            found.append(attention(group.queries(query), keys, values, mask).flatten(0, 1))
        return torch.cat(found)[None]

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        """Row slots and slots, int64 [N], of the nodes."""
        sizes = torch.tensor(self.sizes, device="cpu")
        rows = torch.tensor(self._cache_rows, device="cpu").repeat_interleave(sizes)
        slots = [
            torch.arange(row.length, row.length + size, device="cpu")
            for row, size in zip(self._rows, self.sizes, strict=True)
        ]
        return rows, torch.cat(slots)

    def _targets_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return row slots and slots of the nodes on a device; all layers there share them."""
        if device not in self._targets:
            rows, slots = self._places
            self._targets[device] = rows.to(device), slots.to(device)
        return self._targets[device]


def _groups(rows: Sequence[TreeRow], cache_rows: Sequence[int]) -> Iterable[RowGroup]:
    group: RowGroup | None = None
    node = 0
    for row, slot in zip(rows, cache_rows, strict=True):
        if group is not None and group.takes(row, slot):
            group = RowGroup([*group.rows, row], group.first_row, group.first_node, group.size)
        else:
            if group is not None:
                yield group
            group = RowGroup([row], slot, node, len(row.tree))
        node += len(row.tree)
    if group is not None:
        yield group
