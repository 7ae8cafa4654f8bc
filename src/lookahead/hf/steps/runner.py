"""`StepRunner`, the protocol of the classes that run a step's forward pass, with its input and output."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lookahead.decoding.attention.visibility import TreeRow
from lookahead.drafting.tree import DraftTree
from lookahead.hf.cache.arena_cache import ArenaCache

PADDING_TREE = DraftTree.root_only(0)
"""Stands in for a draft in forward passes that include a row without one; its results are not read."""


@dataclass(eq=False)
class Row:
    """A row of a step model.

    Attributes:
        slot: Its row slot in the arena, which knows the length of its text.
        position: Position of its next token, without padding.
        padding: Mask of the first slots, int [m]: 0 for padding; None where there is none.
        shift: int64 [] or [axes], how far the model's positions are ahead of `position`; None for no shift.
        types: By input name, the type [1, 1] of any new token.
    """

    slot: int
    position: int = 0
    padding: Tensor | None = None
    shift: Tensor | None = None
    types: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def counted_padding(self) -> tuple[int, bool]:
        """Slots of padding on the left, and whether all padding is there. Counted once, not in each step."""
        counted = TreeRow(PADDING_TREE, 0, self.padding)
        return counted.left_padding, counted.is_padded_left

    @property
    def max_position_shift(self) -> int:
        """How far the model's largest position is ahead of `position`; 0 if it is not."""
        return 0 if self.shift is None else max(0, int(self.shift.max()))


@dataclass(frozen=True)
class StepBatch:
    """One forward pass over draft trees.

    Attributes:
        rows: B rows, by ascending row slots.
        trees: The draft of each.
        cache: Holds the rows' texts; these rows are its arena's active rows.
    """

    rows: Sequence[Row]
    trees: Sequence[DraftTree]
    cache: ArenaCache

    @property
    def width(self) -> int:
        """Nodes of the largest tree."""
        return max(map(len, self.trees))

    @property
    def has_equal_lengths(self) -> bool:
        """Whether all rows hold equally long texts."""
        lengths = self.cache.arena.lengths
        return len({lengths[row.slot] for row in self.rows}) == 1

    @cached_property
    def tree_rows(self) -> list[TreeRow]:
        """The rows as attention sees them."""
        lengths = self.cache.arena.lengths
        return [
            TreeRow(tree, lengths[row.slot], row.padding, row.counted_padding)
            for row, tree in zip(self.rows, self.trees, strict=True)
        ]

    @property
    def is_padded_left(self) -> bool:
        """Whether no row has padding anywhere but on the left."""
        return all(row.is_padded_left for row in self.tree_rows)

    def tokens(self, size: int) -> Tensor:
        """Return the trees' tokens, int64 [B, size], padded with copies of node 0's."""
        tokens = np.empty((len(self.trees), size), np.int64)
        for of_row, tree in zip(tokens, self.trees, strict=True):
            of_row[: len(tree)] = tree.token_ids
            of_row[len(tree) :] = tree.token_ids[0]
        return torch.from_numpy(tokens)

    def positions(self, size: int) -> Tensor:
        """Return the nodes' positions as the model counts them, int64 [B, size] or [axes, B, size]."""
        places = np.empty((len(self.trees), size), np.int64)
        for of_row, tree, row in zip(places, self.trees, self.rows, strict=True):
            of_row[:] = row.position
            of_row[: len(tree)] += tree.depths
        counted = torch.from_numpy(places)
        shifts = [row.shift for row in self.rows if row.shift is not None]
        if not shifts:
            return counted
        none = torch.zeros_like(shifts[0])
        shift = torch.stack([none if row.shift is None else row.shift for row in self.rows], dim=-1)
        return counted + shift[..., None]

    @property
    def flat_tokens(self) -> Tensor:
        """The tokens of all trees, one tree after the other: int64 [N]."""
        return torch.from_numpy(np.concatenate([tree.token_ids for tree in self.trees]).astype(np.int64))

    @property
    def flat_positions(self) -> Tensor:
        """The positions of the same nodes, for models that have one axis of them: int64 [N]."""
        firsts = [row.position + (0 if row.shift is None else int(row.shift)) for row in self.rows]
        depths = [tree.depths.astype(np.int64) for tree in self.trees]
        positions = [of_tree + first for of_tree, first in zip(depths, firsts, strict=True)]
        return torch.from_numpy(np.concatenate(positions))

    def token_types(self, size: int) -> dict[str, Tensor]:
        """Return, by input name, the types [B, size] of the nodes' tokens."""
        names = self.rows[0].types
        return {name: torch.cat([row.types[name] for row in self.rows]).expand(-1, size) for name in names}

    def over_slots(self, slots: int) -> "StepBatch":
        """Return the batch over the arena's first row slots; rows without a draft get a padding tree.

        These rows become the arena's active rows.
        """
        if [row.slot for row in self.rows] == list(range(slots)):
            return self
        drafted = {row.slot: (row, tree) for row, tree in zip(self.rows, self.trees, strict=True)}
        types = self.rows[0].types  # a padding row's types are not read, but must be there
        pairs = [drafted.get(slot, (Row(slot, types=types), PADDING_TREE)) for slot in range(slots)]
        self.cache.arena.set_active_rows(range(slots))
        return StepBatch([row for row, _ in pairs], [tree for _, tree in pairs], self.cache)


@dataclass(frozen=True)
class StepLogits:
    """The result of a forward pass over a batch.

    Attributes:
        logits: [R, size, V], size at least the largest tree's nodes; or R tensors [n, V] where rows differ.
        logit_rows: For each row of the batch, its row in `logits`.
        summary: int32 [R, size, columns] on the CPU, of `summarize`; None if it was not computed.
        is_usual: Whether the step took the time that such steps usually take: it captured nothing.
        is_captured: Whether the step was the replay of a graph.
    """

    logits: Tensor | Sequence[Tensor]
    logit_rows: Sequence[int]
    summary: Tensor | None = None
    is_usual: bool = True
    is_captured: bool = False


class StepRunner(Protocol):
    """A class that runs a step's forward pass.

    `unsupported_reason` in a runner's module says why it cannot serve a model; `EagerRunner` serves all.
    The reasons of the CPU and the CUDA runner include `modifications`.
    """

    def run(self, batch: StepBatch) -> StepLogits | None:
        """Verify the batch's trees and append them to its cache.

        Returns:
            The logits; None, with nothing appended, if this runner does not serve this batch.
        """

    def read(self, batch: StepBatch, logits_of: Sequence[int]) -> Sequence[Tensor] | None:
        """Read parts of prompts, whose trees are chains, beside drafts, and append all to the batch's cache.

        Args:
            batch: The rows with the next tokens of their prompts, or with their drafts.
            logits_of: For each row, for how many of its last tokens logits are wanted.

        Returns:
            For each row the logits [tokens, V] after these tokens; None, with nothing appended, if this
            runner does not read this batch.
        """

    def close(self) -> None:
        """Give back what the runner borrowed."""
