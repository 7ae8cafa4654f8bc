"""A cache that the caller handed over: read into the arena before, brought up to date afterwards."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from lookahead.decoding.arena import KVArena
from lookahead.hf.cache.arena_cache import ArenaCache, ArenaLayer
from lookahead.hf.compat.layout import (
    AttentionLayout,
    attention_layout,
    fresh_cache,
    holds_tokens,
    marks_callers_caches,
)
from lookahead.hf.compat.limits import rope_switches_at

_KNOWN_LAYERS = (DynamicLayer, DynamicSlidingWindowLayer)


def is_callers(cache: object) -> bool:
    """Return whether the caller holds on to a cache, as far as one can tell.

    In 5.16 nothing marks it but `Lookahead.generate` and `attach`: behind `custom_generate=` an empty one
    with layers may be `generate`'s own, and is taken for it.
    """
    if not isinstance(cache, Cache):
        return False
    if getattr(cache, "_is_user_defined", False):
        return True
    return not marks_callers_caches() and (not cache.layers or holds_tokens(cache))


def can_be_brought_up_to_date(cache: object) -> bool:
    """Return whether a cache is of the kind that grows, on the model's own device."""
    return type(cache) is DynamicCache and not cache.offloading


def layout_behind(model: PreTrainedModel, cache: Any) -> AttentionLayout:
    """Return how a model's layers see the past behind a cache that the caller may have made.

    A cache made without the model's configuration keeps all tokens in every layer. Whether the model then
    sees more than its windows is left to `generate` itself, in plain steps.
    """
    if not is_callers(cache) or not all(type(layer) in _KNOWN_LAYERS for layer in cache.layers):
        return attention_layout(model, cache)
    layout = attention_layout(model, fresh_cache(model))
    if layout.unsupported:
        return layout
    kept = tuple(getattr(layer, "sliding_window", None) for layer in cache.layers)
    if kept != layout.kept and any(layout.kept):
        reason = "the cache that was handed over was made without the model's configuration"
        return replace(layout, unsupported=reason)
    if rope_switches_at(model) is not None and cache.layers and holds_tokens(cache):
        return replace(layout, unsupported="its rotary frequencies change with the length of a cache begun")
    return layout


def read_into(arena: KVArena, cache: Any) -> None:
    """Append to an empty arena what a cache holds.

    A layer with a sliding window has let go of its oldest tokens: their places are filled with zeros, which
    no token may see any more.
    """
    for index, layer in enumerate(cache.layers):
        if isinstance(layer, _KNOWN_LAYERS) and layer.is_initialized and layer.get_seq_length() > 0:
            keys_and_values: list[Any] = [layer.keys, layer.values]
            arena.append(index, *(_in_full(states, layer.get_seq_length()) for states in keys_and_values))


def write_back(held: ArenaCache, cache: Any) -> None:
    """Make a cache hold copies of all that an arena holds, each of its layers in its own way."""
    layers: list[Any] = []
    for index, held_layer in enumerate(held.layers):
        if not isinstance(held_layer, ArenaLayer):
            layers.append(held_layer)  # one that keeps nothing
            continue
        window = getattr(cache.layers[index], "sliding_window", None) if index < len(cache.layers) else None
        layer: Any = DynamicLayer() if window is None else DynamicSlidingWindowLayer(window)
        keys, values = held.arena.view(index)
        layer.update(keys.clone(), values.clone())
        layers.append(layer)
    cache.layers = layers


def _in_full(states: Tensor, length: int) -> Tensor:
    """Return keys or values [B, heads, n, width] as the last of [B, heads, length, width]."""
    missing = length - states.shape[2]
    zeros = states.new_zeros(*states.shape[:2], missing, states.shape[3])
    return torch.cat([zeros, states], dim=2)
