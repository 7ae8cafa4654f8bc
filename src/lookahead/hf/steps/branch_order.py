"""Forward passes of one fixed width by the model's own code, attending in the order of the text.

The bits of a node's logits then depend only on its text: not on the draft, nor on what the memory holds.
"""

from torch import Tensor

from lookahead.decoding.attention.tree_mask import tree_mask
from lookahead.decoding.attention.visibility import TreeRow
from lookahead.hf.attention.branch_order import BranchPlaces, attend_in_branch_order, with_places
from lookahead.hf.compat.changes import TemporaryChanges
from lookahead.hf.compat.traits import ModelTraits
from lookahead.hf.steps.eager import EagerRunner
from lookahead.hf.steps.runner import StepBatch, StepLogits


def unsupported_reason(traits: ModelTraits) -> str:
    """Return why this runner cannot serve a model; empty if the probe should try it."""
    if traits.has_experts:
        return "each of its experts multiplies a varying number of tokens, which changes the bits"
    if not traits.uses_attention_interface or traits.bias:
        return "its attention cannot be computed in the order of the text"
    return ""


class BranchOrderRunner(EagerRunner):
    """The model's own forward pass over all row slots, always of one width; its verification has one."""

    def run(self, batch: StepBatch) -> StepLogits:
        """Verify trees of at most the fixed width; the forward pass includes rows without a draft."""
        padded = batch.over_slots(batch.cache.arena.max_rows)
        width = self.verification.fixed_width or padded.width
        return StepLogits(self.forward(padded, width), [row.slot for row in batch.rows])

    def switch_attention(self, changes: TemporaryChanges) -> None:
        """Let the model attend in branch order until the changes are undone."""
        attend_in_branch_order(self.model, changes)

    def mask_of(self, rows: list[TreeRow], size: int, past: dict[str, int | None]) -> Tensor:
        """Return the mask, which carries where the text of each node lies."""
        device = self.model.device
        mask = tree_mask(rows, self.traits.dtype, size=size, **past).to(device)
        return with_places(mask, BranchPlaces(rows, size, device, **past))
