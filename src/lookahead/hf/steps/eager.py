"""Forward passes by the model's own code over Lookahead's cache: a rectangle, or one row after the other."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lookahead.backends.cuda.attention_choice import without_cudnn
from lookahead.decoding.attention.flat_rows import FlatRows
from lookahead.decoding.attention.tree_mask import tree_mask
from lookahead.decoding.attention.visibility import TreeRow
from lookahead.hf.attention.flat_rows import attend_to_flat_rows, rows_as_masks
from lookahead.hf.attention.grouped_query import attend_by_grouped_queries, with_repeated_rows
from lookahead.hf.compat.changes import TemporaryChanges
from lookahead.hf.compat.generation import extra_inputs, takes_logits_to_keep
from lookahead.hf.compat.layout import AttentionLayout
from lookahead.hf.compat.traits import ModelTraits
from lookahead.hf.steps.runner import StepBatch, StepLogits
from lookahead.hf.steps.verification import Verification, VerificationMode

_MAX_FAILURES = 3
"""After so many forward passes that raised, rows are no longer laid one after the other."""
_BALANCE = 32.0
"""Weights that a processor multiplies by in the time in which it reads one key or value: arithmetic overlaps
with other arithmetic, and each key is read anew. Measured: 30 (float32, two cores)."""


class EagerRunner:
    """The model's own forward pass, for any model whose cache an arena can replace.

    It is as wide as the largest tree.

    Args:
        model: A decoder-only model.
        traits: Its traits.
        layout: How its layers see the past.
        verification: How its drafts are verified.
    """

    def __init__(
        self, model: PreTrainedModel, traits: ModelTraits, layout: AttentionLayout, verification: Verification
    ) -> None:
        self.model = model
        self.traits = traits
        self.layout = layout
        self.verification = verification
        self._is_tree = verification.mode is VerificationMode.TREE
        self._groups_queries = verification.groups_queries
        self.takes_logits_to_keep = takes_logits_to_keep(model)

    def run(self, batch: StepBatch) -> StepLogits:
        """Verify trees of any kind and size."""
        return StepLogits(self.forward(batch, batch.width), range(len(batch.rows)))

    def read(self, batch: StepBatch, logits_of: Sequence[int]) -> Sequence[Tensor] | None:
        """Read a part of one prompt; None for several, which may be of different lengths."""
        if len(batch.rows) > 1:
            return None
        logits = self.forward(batch, batch.width, max(1, logits_of[0]))
        return [logits[0, logits.shape[1] - logits_of[0] :]]

    def forward(self, batch: StepBatch, size: int, max_logits: int | None = None) -> Tensor:
        """Return logits [B, size, V], or only of the last `max_logits` nodes, [B, max_logits, V]."""
        arena, device = batch.cache.arena, self.model.device
        inputs: dict[str, Any] = {"past_key_values": batch.cache, "use_cache": True, "return_dict": True}
        inputs |= extra_inputs(self.model, arena.longest_length, size)
        inputs |= batch.token_types(size)
        if self.traits.takes_positions:
            inputs["position_ids"] = batch.positions(size).to(device)
        if max_logits is not None and self.takes_logits_to_keep:
            inputs["logits_to_keep"] = max_logits
        is_masked = self._is_tree and (size > 1 or not batch.has_equal_lengths)
        inputs["attention_mask"] = self._mask(batch, size) if is_masked else self._plain_mask(batch, size)
        batch.cache.show_all(is_masked)
        changes = TemporaryChanges()
        # On CUDA devices this also keeps other threads from switching the attention meanwhile.
        with without_cudnn(device), changes, changes:
            if is_masked:
                row = batch.tree_rows[0]  # batches of models with a position bias are verified as chains
                padding = None if row.padding is None else row.padding[None]
                self.traits.bias.set_for(row.tree, row.length, padding, changes)
                self.switch_attention(changes)
            logits: Tensor = self.model(input_ids=batch.tokens(size).to(device), **inputs).logits
        return logits if max_logits is None else logits[:, -max_logits:]

    def switch_attention(self, changes: TemporaryChanges) -> None:
        """Let the model attend to trees until the changes are undone."""
        if self._groups_queries:
            attend_by_grouped_queries(self.model, changes)

    def mask_of(self, rows: list[TreeRow], size: int, past: dict[str, int | None]) -> Tensor:
        """Return the mask of layers that see the past in one way, [B, 1, size, slots]."""
        mask = tree_mask(rows, self.traits.dtype, size=size, **past).to(self.model.device)
        return with_repeated_rows(mask, self.traits.query_groups if self._groups_queries else 1)

    def close(self) -> None:
        """Do nothing: nothing is borrowed."""

    def _mask(self, batch: StepBatch, size: int) -> Tensor | dict[str, Tensor]:
        """Return the trees' mask, one for each type of layer where they see the past in different ways."""
        masks: dict[str, Tensor] = {}
        for name, window in self.layout.windows.items():
            past = {"window": window, "chunk": self.layout.chunks.get(name)}
            masks[name] = self.mask_of(batch.tree_rows, size, past)
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _plain_mask(self, batch: StepBatch, size: int) -> Tensor | None:
        """Return the 2-D mask that `generate` would pass for `size` tokens after the cache."""
        length = batch.cache.arena.longest_length + size
        masks = [
            torch.nn.functional.pad(row.padding, (0, length - len(row.padding)), value=1)
            for row in batch.rows
            if row.padding is not None
        ]
        return torch.stack(masks).to(self.model.device) if masks else None


class FlatRunner:
    """The model's own forward pass over the nodes of all rows, one row after the other.

    Each row has its own number of nodes: a draft of 16 beside seven rows without one costs 23 tokens, in a
    rectangle 128.

    Args:
        eager: Does the same steps in a rectangle, and those that this runner leaves to it.
    """

    def __init__(self, eager: EagerRunner) -> None:
        self._eager = eager
        self._failures = self._weights = 0

    def run(self, batch: StepBatch) -> StepLogits | None:
        """Verify trees of any sizes; None where a rectangle is cheaper or has to serve."""
        rows = flat_rows_of(batch)
        if rows.saved_tokens(self.slots_per_token(batch)) <= 0:
            return None
        logits = self._tried(batch, rows, rows.sizes)
        return None if logits is None else StepLogits(logits, range(len(batch.rows)))

    def read(self, batch: StepBatch, logits_of: Sequence[int]) -> Sequence[Tensor] | None:
        """Read parts of several prompts, and verify trees beside them; None for one row."""
        return self._tried(batch, flat_rows_of(batch), logits_of) if len(batch.rows) > 1 else None

    def close(self) -> None:
        """Do nothing: nothing is borrowed."""

    def forward(self, batch: StepBatch, rows: FlatRows, logits_of: Sequence[int]) -> list[Tensor] | None:
        """Return the logits of each row's last nodes, as many as are wanted.

        Return None, with nothing done, if the cache has no layers yet or if a row's inputs differ in more
        than tokens and positions.
        """
        is_other = any(row.types or (row.shift is not None and row.shift.ndim) for row in batch.rows)
        sizes = {row.slot: size for row, size in zip(batch.rows, rows.sizes, strict=True)}
        if is_other or not batch.cache.arena.make_room(sizes):
            return None
        eager, device = self._eager, self._eager.model.device
        groups = eager.verification.groups_queries and eager.traits.can_use_sdpa
        query_groups = eager.traits.query_groups if groups else 1
        inputs = {
            "input_ids": batch.flat_tokens[None].to(device),
            "position_ids": batch.flat_positions[None].to(device),
            "attention_mask": rows_as_masks(rows, eager.layout, eager.traits.dtype, device, query_groups),
            "past_key_values": batch.cache,
            "use_cache": True,
            "return_dict": True,
        }
        wanted = _last_of(rows.sizes, logits_of)
        if eager.takes_logits_to_keep and len(wanted) < sum(rows.sizes):
            inputs["logits_to_keep"] = wanted.to(device)
        changes = TemporaryChanges()
        with changes, changes, without_cudnn(device):
            changes.undo_by(lambda: batch.cache.lay_flat(None))
            batch.cache.lay_flat(rows)
            attend_to_flat_rows(eager.model, changes, groups_queries=groups)
            logits: Tensor = eager.model(**inputs).logits[0]
        if len(logits) != len(wanted):
            logits = logits[wanted.to(device)]
        return list(torch.split(logits, list(logits_of)))

    def _tried(self, batch: StepBatch, rows: FlatRows, logits_of: Sequence[int]) -> list[Tensor] | None:
        """Return the result of `forward`; None where it raised: the rectangle serves, or raises as well."""
        if self._failures >= _MAX_FAILURES:
            return None
        try:
            return self.forward(batch, rows, logits_of)
        except Exception:  # noqa: BLE001  # whatever a model's code raises; nothing of the cache is kept
            self._failures += 1
            return None

    def slots_per_token(self, batch: StepBatch) -> float:
        """Return how many slots are attended to in the time that a token's products take."""
        if self._weights == 0:
            self._weights = sum(weight.numel() for weight in self._eager.model.parameters())
        values = batch.cache.arena.bytes_per_token / self._eager.traits.dtype.itemsize
        return max(1.0, self._weights / (_BALANCE * max(1.0, values)))


def flat_rows_of(batch: StepBatch) -> FlatRows:
    """Return a batch's rows, one after the other."""
    return FlatRows(batch.tree_rows, [row.slot for row in batch.rows])


def _last_of(sizes: Sequence[int], counts: Sequence[int]) -> Tensor:
    """Return the indices, int64, of the last nodes of each row, as many as are wanted."""
    ends = accumulate(sizes)
    return torch.cat(
        [torch.arange(end - count, end, device="cpu") for end, count in zip(ends, counts, strict=True)]
    )
