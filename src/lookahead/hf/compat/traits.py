"""`ModelTraits`: the facts about a model that decoding depends on, computed once and handed down."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from lookahead.hf.compat.attention import (
    attention_name,
    can_use_sdpa,
    takes_tree_masks,
    uses_attention_interface,
)
from lookahead.hf.compat.config import (
    has_cross_attention,
    has_experts,
    is_library_code,
    takes_cache,
    takes_positions,
    text_config,
)
from lookahead.hf.compat.limits import DraftLimits
from lookahead.hf.compat.position_bias import PositionBias


@dataclass(frozen=True)
class ModelTraits:
    """Facts about a model, read from its configuration and code.

    Attributes:
        dtype: Dtype of its weights.
        device: Device of its weights.
        attention: Name of its own attention function.
        uses_attention_interface: Whether it looks that function up by name.
        can_use_sdpa: Whether SDPA, called by a function of ours, can stand in for its attention.
        takes_tree_masks: Whether its own attention function takes a tree mask.
        query_groups: Query heads that share a key head; 1 where SDPA cannot stand in.
        bias: Its modules that derive positions from slots.
        limits: Where its drafts must end.
        takes_positions: Whether it takes each token's position, which a tree needs.
        takes_cache: Whether it takes a key-value cache.
        has_experts: Whether it is a mixture of experts.
        is_library_code: Whether its code is part of transformers.
        has_cross_attention: Whether some layers attend to images, whose keys the cache holds.
    """

    dtype: torch.dtype
    device: torch.device
    attention: str
    uses_attention_interface: bool
    can_use_sdpa: bool
    takes_tree_masks: bool
    query_groups: int
    bias: PositionBias
    limits: DraftLimits
    takes_positions: bool
    takes_cache: bool
    has_experts: bool
    is_library_code: bool
    has_cross_attention: bool

    @classmethod
    def of(cls, model: PreTrainedModel) -> "ModelTraits":
        """Return a model's traits; they hold until `traits_key` changes."""
        sdpa = can_use_sdpa(model)
        return cls(
            dtype=model.dtype,
            device=model.device,
            attention=attention_name(model),
            uses_attention_interface=uses_attention_interface(model),
            can_use_sdpa=sdpa,
            takes_tree_masks=takes_tree_masks(model),
            query_groups=_query_groups(model) if sdpa else 1,
            bias=PositionBias(model),
            limits=DraftLimits.of(model),
            takes_positions=takes_positions(model),
            takes_cache=takes_cache(model),
            has_experts=has_experts(model),
            is_library_code=is_library_code(model),
            has_cross_attention=has_cross_attention(model),
        )

    @property
    def key(self) -> tuple[object, ...]:
        """What the traits, the probe's results and step times of one model depend on."""
        return (self.dtype, self.device, self.attention)

    @property
    def changes_in_forwards(self) -> bool:
        """Whether a tree's forward pass changes the model while it runs, so that other threads must wait."""
        is_replaced = self.can_use_sdpa and self.attention != "sdpa"
        # On CUDA devices our kernels stand in for a model's own attention, too.
        may_be_replaced = self.device.type == "cuda" and self.attention == "eager"
        return bool(self.bias) or is_replaced or (may_be_replaced and self.uses_attention_interface)


def traits_key(model: PreTrainedModel) -> tuple[object, ...]:
    """Return the `key` that a model's traits would have now."""
    return (model.dtype, model.device, attention_name(model))


def _query_groups(model: PreTrainedModel) -> int:
    config = text_config(model)
    heads = getattr(config, "num_attention_heads", 1)
    return max(1, heads // (getattr(config, "num_key_value_heads", None) or heads))
