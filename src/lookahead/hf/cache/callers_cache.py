"""The caller's cache: copied into the arena before decoding, brought up to date afterwards."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from lookahead.decoding.kv_arena import KVArena
from lookahead.hf.cache.arena_cache import ArenaCache, ArenaLayer
from lookahead.hf.compat.layout import (
    AttentionLayout,
    attention_layout,
    fresh_cache,
    holds_tokens,
    is_marked_as_callers,
    marks_callers_caches,
)
from lookahead.hf.compat.limits import rope_switches_at

_KNOWN_LAYERS = (DynamicLayer, DynamicSlidingWindowLayer)


def is_callers_cache(cache: object) -> bool:
    """Return whether the caller passed this cache.

    In 5.16 only `Lookahead.generate` and `attach` mark the caller's cache. With `custom_generate=`, an empty
    cache with layers may be `generate`'s own, and counts as that.
    """
    if not isinstance(cache, Cache):
        return False
    if is_marked_as_callers(cache):
        return True
    return not marks_callers_caches() and (not cache.layers or holds_tokens(cache))


def can_be_brought_up_to_date(cache: object) -> bool:
    """Return whether a cache is a `DynamicCache` on the model's own device."""
    return type(cache) is DynamicCache and not cache.offloading


def layout_behind(model: PreTrainedModel, cache: Any) -> AttentionLayout:
    """Return how a model's layers see the past, for a cache that may be the caller's.

    A cache created without the model's configuration keeps all tokens in every layer. The model may then see
    more than its windows, so `generate` itself decodes it in plain steps.
    """
    if not is_callers_cache(cache) or not all(type(layer) in _KNOWN_LAYERS for layer in cache.layers):
        return attention_layout(model, cache)
    layout = attention_layout(model, fresh_cache(model))
    if layout.unsupported:
        return layout
    kept = tuple(getattr(layer, "sliding_window", None) for layer in cache.layers)
    if kept != layout.kept and any(layout.kept):
        return replace(layout, unsupported="the given cache was created without the model's configuration")
    if rope_switches_at(model) is not None and cache.layers and holds_tokens(cache):
        reason = "its rotary frequencies change with the length of the given cache"
        return replace(layout, unsupported=reason)
    return layout


def read_into(arena: KVArena, cache: Any) -> None:
    """Append a cache's keys and values to an empty arena.

    A layer with a sliding window has dropped its oldest tokens: zeros fill their slots, which no token sees
    any more.
    """
    for index, layer in enumerate(cache.layers):
        if isinstance(layer, _KNOWN_LAYERS) and layer.is_initialized and layer.get_seq_length() > 0:
            keys_and_values: list[Any] = [layer.keys, layer.values]
            arena.append(index, *(_in_full(states, layer.get_seq_length()) for states in keys_and_values))


def write_back(held: ArenaCache, cache: Any) -> None:
    """Replace a cache's layers by copies of what an arena holds, with the same windows."""
    layers: list[Any] = []
    for index, held_layer in enumerate(held.layers):
        if not isinstance(held_layer, ArenaLayer):
            layers.append(held_layer)  # it keeps nothing
            continue
        window = getattr(cache.layers[index], "sliding_window", None) if index < len(cache.layers) else None
        layer: Any = DynamicLayer() if window is None else DynamicSlidingWindowLayer(window)
        keys, values = held.arena.view(index)
        layer.update(keys.clone(), values.clone())
        layers.append(layer)
    cache.layers = layers


def _in_full(states: Tensor, length: int) -> Tensor:
    """Return keys or values [B, heads, n, width] with zeros before them, [B, heads, length, width]."""
    missing = length - states.shape[2]
    zeros = states.new_zeros(*states.shape[:2], missing, states.shape[3])
    return torch.cat([zeros, states], dim=2)
