"""What Lookahead knows of transformers' internals, and nobody else here does (5.16.1 to 5.23)."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.generation import utils as generation_utils
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from lookahead.decoding.tree_attention import folded_tree_attention
from lookahead.errors import UnsupportedModelError

FOLDED_ATTENTION = "lookahead_folded"
"""Name under which the grouped-query tree attention is registered with the library."""

# RoPE types whose frequencies depend on the largest position in a forward: a draft would change them.
LENGTH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})


@dataclass(frozen=True)
class AttentionLayout:
    """How a model's layers see the past.

    Attributes:
        layer_count: layers in the cache.
        windows: by layer type, the sliding window in tokens, or None for full attention.
    """

    layer_count: int
    windows: dict[str, int | None]


def text_config(model: PreTrainedModel) -> PreTrainedConfig:
    """Return the configuration of the model's decoder."""
    config: PreTrainedConfig = model.config.get_text_config(decoder=True)
    return config


def attention_name(model: PreTrainedModel) -> str:
    """Return the name of the attention that the model uses when it verifies no tree just now."""
    name = str(text_config(model)._attn_implementation)  # noqa: SLF001
    return "sdpa" if name == FOLDED_ATTENTION else name


@contextmanager
def decoding_experts(model: PreTrainedModel) -> Iterator[None]:
    """Within, a mixture of experts computes them as `generate` has them computed after the prompt."""
    untyped: Any = model
    switch = getattr(untyped, "_optimize_model_for_decode", nullcontext)
    with switch():
        yield


def context_length(model: PreTrainedModel) -> int | None:
    """Return how many positions the model was made for, or None where it does not say."""
    length: int | None = getattr(text_config(model), "max_position_embeddings", None)
    return length


def attention_layout(model: PreTrainedModel, cache: object) -> AttentionLayout:
    """Read off the cache that `generate` made how the model's layers see the past.

    Raises:
        UnsupportedModelError: the model keeps something other than keys and values of attention layers.
    """
    if not isinstance(cache, Cache) or not cache.layers:
        message = (
            f"{type(model).__name__} keeps no key-value cache that Lookahead can use; "
            "decoder-only attention models are supported, call model.generate without Lookahead for this one"
        )
        raise UnsupportedModelError(message)
    types = getattr(text_config(model), "layer_types", None) or [_type_of(layer) for layer in cache.layers]
    windows: dict[str, int | None] = {}
    for layer_type, layer in zip(types, cache.layers, strict=True):
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) or layer_type not in (
            "full_attention",
            "sliding_attention",
        ):
            message = (
                f"{type(model).__name__} has layers of type {layer_type!r} ({type(layer).__name__}); "
                "Lookahead supports full and sliding attention: call model.generate without it"
            )
            raise UnsupportedModelError(message)
        windows[layer_type] = getattr(layer, "sliding_window", None)
    return AttentionLayout(len(cache.layers), windows)


def _type_of(layer: object) -> str:
    return "sliding_attention" if isinstance(layer, DynamicSlidingWindowLayer) else "full_attention"


def rope_switches_at(model: PreTrainedModel) -> int | None:
    """Return the length at which a longrope model changes its frequencies and starts its cache anew."""
    for entry in _rope_entries(model):
        if entry.get("rope_type") == "longrope":
            found = entry.get("original_max_position_embeddings")
            length: int | None = found or getattr(
                text_config(model), "original_max_position_embeddings", None
            )
            return length
    return None


def rope_depends_on_length(model: PreTrainedModel) -> bool:
    """Return whether the rotary frequencies depend on the largest position in a forward."""
    return any(entry.get("rope_type") in LENGTH_DEPENDENT_ROPE for entry in _rope_entries(model))


def _rope_entries(model: PreTrainedModel) -> list[dict[str, Any]]:
    """Return the rotary settings, where layer types have their own also those."""
    parameters = getattr(text_config(model), "rope_parameters", None) or {}
    return [parameters, *(value for value in parameters.values() if isinstance(value, dict))]


def streamers_come_first() -> bool:
    """Return whether `generate` hands a token to the streamer before it asks the stopping criteria.

    It did so in 5.16; 5.23 asks first.
    """
    return not hasattr(generation_utils, "StopCheck")


def takes_positions(model: PreTrainedModel) -> bool:
    """Return whether the model can be told each token's position, which a tree needs."""
    return "position_ids" in signature(model.forward).parameters


def prefill(
    model: PreTrainedModel,
    input_ids: Tensor,
    generation_config: Any,
    model_kwargs: dict[str, Any],
    *,
    most_logits: int,
) -> Tensor:
    """Read the prompt exactly as `generate` does.

    Returns:
        Logits [B, k, V] after the prompts' last k tokens, the first new token's last; k is `most_logits`, or
        less where the model or the way the prompt is read gives fewer.
    """
    untyped: Any = model  # the library's own types do not know its private method
    if most_logits > 1 and "logits_to_keep" in model_kwargs:
        model_kwargs = {**model_kwargs, "logits_to_keep": most_logits}
    outputs = untyped._prefill(input_ids, generation_config, model_kwargs)  # noqa: SLF001
    logits: Tensor = outputs.logits[:, -most_logits:]
    return logits


def query_groups(model: PreTrainedModel) -> int:
    """Return how many query heads share a key head where trees are verified folded, else 1."""
    if not _can_fold(model):
        return 1
    config = text_config(model)
    heads = getattr(config, "num_attention_heads", 1)
    return max(1, heads // (getattr(config, "num_key_value_heads", None) or heads))


@contextmanager
def folded_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within, an SDPA model with grouped queries verifies trees without repeating its keys and values."""
    if not _can_fold(model):
        yield
        return
    _register_folded_attention()
    config = text_config(model)
    config._attn_implementation = FOLDED_ATTENTION  # noqa: SLF001
    try:
        yield
    finally:
        # Right for every thread: what is folded is so only in how it is computed, not in what comes of it.
        config._attn_implementation = "sdpa"  # noqa: SLF001


def _can_fold(model: PreTrainedModel) -> bool:
    """Return whether the model looks its attention function up by name, and SDPA is the one in use."""
    looks_up = getattr(model, "_supports_attention_backend", False)
    # Another thread may have the model verify a tree just now.
    return bool(looks_up) and text_config(model)._attn_implementation in ("sdpa", FOLDED_ATTENTION)  # noqa: SLF001


def with_repeated_rows(mask: Tensor, groups: int) -> Tensor:
    """Return a mask [B, 1, T, S] that carries [B, 1, groups · T, S], repeated once for all layers.

    It is carried as an attribute, so that a layer that does not fold finds the mask as it expects it.
    """
    if groups > 1:
        mask.folded = mask.repeat(1, 1, groups, 1)  # type: ignore[attr-defined]
    return mask


def _register_folded_attention() -> None:
    """Tell the library of the attention function, on first use: importing Lookahead changes nothing."""
    if FOLDED_ATTENTION not in AttentionInterface():
        AttentionInterface.register(FOLDED_ATTENTION, _folded_attention_forward)
        AttentionMaskInterface.register(FOLDED_ATTENTION, sdpa_mask)


def _folded_attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    is_tree = query.shape[2] > 1 and attention_mask is not None and attention_mask.shape[1] == 1
    if attention_mask is None or not is_tree or dropout or kwargs.get("position_bias") is not None:
        attended, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return attended, None
    folded: Tensor = getattr(attention_mask, "folded", attention_mask)
    attended = folded_tree_attention(query, key, value, folded, scaling=scaling)
    return attended.transpose(1, 2).contiguous(), None
