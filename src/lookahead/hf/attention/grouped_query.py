"""The attention of tree forward passes: SDPA, without repeating keys and values for grouped queries."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from lookahead.decoding.attention.grouped_query import grouped_query_tree_attention
from lookahead.hf.compat.attention import attend_by, can_use_sdpa
from lookahead.hf.compat.changes import TemporaryChanges

_UNSUPPORTED_ARGUMENTS = ("position_bias", "softcap", "s_aux", "cache")
"""Arguments that change what attention computes: with any of them, transformers' own function is called."""


def attend_by_grouped_queries(model: PreTrainedModel, changes: TemporaryChanges) -> None:
    """Let a model verify trees by SDPA, without repeating keys and values, until the changes are undone.

    If SDPA is the model's own attention, plain forward passes of other threads stay correct: they compute the
    same in another layout. Other models serve one thread at a time (`ModelProfiles.lock`).
    """
    if can_use_sdpa(model):
        attend_by(model, "grouped_query", attend_in_groups, changes)


def with_repeated_rows(mask: Tensor, groups: int) -> Tensor:
    """Return a mask [B, 1, T, S] that carries [B, 1, groups · T, S], repeated once for all layers.

    The repeated mask is an attribute, so that layers with transformers' own function find the usual mask.
    """
    if groups > 1:
        mask.repeated = mask.repeat(1, 1, groups, 1)  # type: ignore[attr-defined]
    return mask


def attend_in_groups(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' function for SDPA does, but repeat no keys and values for a tree's mask."""
    is_tree = attention_mask is not None and attention_mask.shape[1] == 1
    is_other = any(kwargs.get(name) is not None for name in _UNSUPPORTED_ARGUMENTS)
    if attention_mask is None or not is_tree or dropout or is_other:
        attended, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return attended, None
    mask: Tensor = getattr(attention_mask, "repeated", attention_mask)
    attended = grouped_query_tree_attention(query, key, value, mask, scaling=scaling)
    return attended.transpose(1, 2).contiguous(), None
