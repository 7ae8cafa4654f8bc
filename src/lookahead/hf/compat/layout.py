"""How a model's layers see the past, read from the cache that transformers creates."""

from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel, cache_utils
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.generation import utils as generation_utils

from lookahead.hf.compat.config import text_config

CACHE_NAMES = ("past_key_values", "cache_params", "state")
"""The inputs in which `generate` passes the cache: attention models, Mamba, RWKV."""


@dataclass(frozen=True)
class AttentionLayout:
    """How a model's layers see the past.

    Attributes:
        windows: By layer type, the sliding window in tokens, or None for full attention.
        chunks: By layer type, the chunk in tokens; only for layer types that attend within their own chunk.
        kept: By layer, how many tokens its own cache would keep, the current one included; None for all.
        borrowing: Layers that keep nothing: they use the keys and values of others (Gemma 3n and 4) or none.
        unsupported: Why an arena cannot replace the model's own cache; empty if it can.
    """

    windows: dict[str, int | None] = field(default_factory=dict)
    chunks: dict[str, int] = field(default_factory=dict)
    kept: tuple[int | None, ...] = ()
    borrowing: frozenset[int] = frozenset()
    unsupported: str = ""


def cache_of(model_kwargs: dict[str, Any]) -> object:
    """Return the cache among a model's inputs, under any of `CACHE_NAMES`; None if there is none."""
    return next((model_kwargs[name] for name in CACHE_NAMES if model_kwargs.get(name) is not None), None)


def fresh_cache(model: PreTrainedModel) -> Cache | None:
    """Return an empty cache like the one `generate` creates; None if the model creates its own."""
    untyped: Any = model
    makes_one = untyped._supports_default_dynamic_cache()
    return DynamicCache(config=text_config(model)) if makes_one else None


def holds_tokens(cache: Cache) -> bool:
    """Return whether a cache with layers holds any token."""
    try:
        return int(cache.get_seq_length()) > 0
    except ValueError:  # it has no attention layer, and other layers count no tokens
        return bool(cache.has_previous_state())


def tokens_in(cache: object) -> int:
    """Return how many tokens of each row a cache holds; 0 if it holds none or does not count them."""
    try:
        return int(cache.get_seq_length()) if isinstance(cache, Cache) else 0
    except ValueError:  # it has no attention layer
        return 0


def attention_layout(model: PreTrainedModel, cache: object) -> AttentionLayout:
    """Return how the model's layers see the past, read from the cache that `generate` created."""
    if not isinstance(cache, Cache) or not cache.layers:
        return AttentionLayout(unsupported="it keeps something other than a key-value cache")
    config = text_config(model)
    types = getattr(config, "layer_types", None) or [_type_of(config, layer) for layer in cache.layers]
    if len(types) - len(cache.layers) == getattr(config, "num_kv_shared_layers", None):
        types = types[: len(cache.layers)]  # before 5.23, layers that keep nothing are not in the cache
    if len(types) != len(cache.layers):
        return AttentionLayout(unsupported=f"it has {len(types)} layers, its cache {len(cache.layers)}")
    windows: dict[str, int | None] = {}
    chunks: dict[str, int] = {}
    borrowing = frozenset(index for index, layer in enumerate(cache.layers) if _keeps_nothing(layer))
    for index, (layer_type, layer) in enumerate(zip(types, cache.layers, strict=True)):
        if index in borrowing:
            continue
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) or layer_type not in _LAYER_TYPES:
            reason = (
                f"it has layers of type {layer_type!r}, whose state ({type(layer).__name__}) cannot branch"
            )
            return AttentionLayout(unsupported=reason)
        window = getattr(layer, "sliding_window", None)
        if layer_type == "chunked_attention" and window is not None:
            chunks[layer_type], window = window, None
        if windows.setdefault(layer_type, window) != window:
            return AttentionLayout(
                unsupported=f"its layers of type {layer_type!r} have windows of several sizes"
            )
    kept = tuple(getattr(layer, "sliding_window", None) for layer in cache.layers)
    return AttentionLayout(windows, chunks, kept, borrowing)


def misplaced_layers(model: PreTrainedModel) -> str:
    """Return how a model's layers do not write to the cache in their order, in words; empty if they do.

    Layers that were deleted, shared or moved keep the number of their place in the cache.
    """
    layers = getattr(model.base_model, "layers", None)
    attentions = [getattr(layer, "self_attn", None) for layer in layers or ()]
    numbers = [getattr(attention, "layer_idx", None) for attention in attentions]
    if None in numbers or numbers == list(range(len(numbers))):
        return ""
    return f"its layers write to the places {numbers} of the cache, not each to its own"


def empty_layer() -> Any:
    """Return the library's cache layer for a layer that keeps nothing; older versions have none."""
    return cache_utils.DummyLayer()


def _keeps_nothing(layer: object) -> bool:
    return type(layer).__name__ == "DummyLayer"


_LAYER_TYPES = frozenset({"full_attention", "sliding_attention", "chunked_attention"})


def _type_of(config: PreTrainedConfig, layer: object) -> str:
    if not isinstance(layer, DynamicSlidingWindowLayer):
        return "full_attention"
    is_chunked = getattr(config, "sliding_window", None) is None and hasattr(config, "attention_chunk_size")
    return "chunked_attention" if is_chunked else "sliding_attention"


def marks_callers_caches() -> bool:
    """Return whether `generate` marks the caller's cache; 5.16 does not, 5.23 does."""
    return hasattr(generation_utils, "StopCheck")


def is_marked_as_callers(cache: Cache) -> bool:
    """Return whether a cache is marked as the caller's."""
    return bool(getattr(cache, "_is_user_defined", False))


def mark_callers_cache(arguments: dict[str, Any]) -> None:
    """Mark a cache among the arguments of `generate` as the caller's, as 5.23 itself does."""
    cache = cache_of(arguments)
    if isinstance(cache, Cache):
        cache._is_user_defined = True  # type: ignore[attr-defined]
