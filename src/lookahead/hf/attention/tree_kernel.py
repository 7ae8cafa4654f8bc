"""The attention of captured steps by our Triton kernels, for models that look their attention up by name."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from lookahead.backends.cuda.packed_trees import PackedTrees
from lookahead.backends.cuda.tree_attention import supports, tree_attention, why_no_kernel
from lookahead.hf.cache.arena_cache import ArenaCache, ArenaLayer
from lookahead.hf.cache.bucket_cache import NotStaticError
from lookahead.hf.compat.attention import attend_by, attention_name_in
from lookahead.hf.compat.changes import TemporaryChanges
from lookahead.hf.compat.layout import AttentionLayout
from lookahead.hf.compat.traits import ModelTraits

_UNSUPPORTED_ARGUMENTS = ("position_bias", "cache")
"""Arguments that change what attention computes in ways that the kernels do not know."""


@dataclass(frozen=True)
class _Seen:
    """What the nodes see in layers of one type."""

    packed: Tensor
    window: int | None
    chunk: int | None


def unsupported_reason(traits: ModelTraits, cache: ArenaCache, *, groups_queries: bool) -> str:
    """Return why the kernels cannot serve a model's captured steps; empty if that should be tried."""
    reason = why_no_kernel(traits.device)
    if reason:
        return reason
    if not traits.uses_attention_interface or not (groups_queries or traits.attention == "eager"):
        return "its attention is a part of its own code"
    for index, layer in enumerate(cache.layers):
        if isinstance(layer, ArenaLayer):
            keys, values = cache.arena.memory(index)
            if not supports(keys.dtype, keys.shape[3], values.shape[3]):
                return f"its heads are {keys.shape[3]} and {values.shape[3]} wide, in {keys.dtype}"
    return ""


def attend_by_kernel(model: PreTrainedModel, changes: TemporaryChanges) -> None:
    """Let a model's layers attend by the kernels until the changes are undone, with `trees_as_masks`.

    If SDPA is the model's own attention, plain forward passes of other threads stay correct: their masks
    carry no trees, and they attend by SDPA. Other models serve one thread at a time (`ModelProfiles.lock`).
    """
    attend_by(model, "tree_kernel", _forward, changes)


def trees_as_masks(trees: PackedTrees, layout: AttentionLayout) -> dict[str, Tensor]:
    """Return a mask for each type of layers that carries the packed trees as an attribute.

    The tensor itself has two columns, which fit no cache: a layer that used it as a mask would raise.
    """
    masks = {}
    for name, window in layout.windows.items():
        mask = torch.zeros(1, 1, 1, 2, dtype=torch.bool, device=trees.packed.device)
        mask.seen = _Seen(trees.packed, window, layout.chunks.get(name))  # type: ignore[attr-defined]
        masks[name] = mask
    return masks


def _forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    seen: _Seen | None = getattr(attention_mask, "seen", None)
    if seen is None and attention_name_in(module.config) == "sdpa":  # a forward pass of another thread
        mask, common = attention_mask, {"dropout": dropout, "scaling": scaling, **others}
        attended, _ = sdpa_attention_forward(
            module, query, key, value, mask, softcap=softcap, s_aux=s_aux, **common
        )
        return attended, None
    given = [name for name in _UNSUPPORTED_ARGUMENTS if others.get(name) is not None]
    if seen is None or dropout or given:
        message = f"its layers attend in a way of their own ({', '.join(given) or 'another mask'})"
        raise NotStaticError(message)
    attended = tree_attention(
        query.contiguous(),
        key,
        value,
        seen.packed,
        scaling=query.shape[3] ** -0.5 if scaling is None else scaling,
        window=seen.window,
        chunk=seen.chunk,
        softcap=softcap,
        sinks=s_aux,
    )
    return attended, None
