"""Forward passes by the model's own code, over Lookahead's cache."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lookahead.backends.cuda.attention_choice import without_cudnn
from lookahead.decoding.attention.tree_mask import tree_mask
from lookahead.decoding.attention.visibility import TreeRow
from lookahead.hf.attention.grouped_query import attend_by_grouped_queries, with_repeated_rows
from lookahead.hf.compat.changes import TemporaryChanges
from lookahead.hf.compat.generation import extra_inputs, takes_logits_to_keep
from lookahead.hf.compat.layout import AttentionLayout
from lookahead.hf.compat.traits import ModelTraits
from lookahead.hf.steps.runner import StepBatch, StepLogits
from lookahead.hf.steps.verification import Verification, VerificationMode


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
        self._takes_logits_to_keep = takes_logits_to_keep(model)

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
        if max_logits is not None and self._takes_logits_to_keep:
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
