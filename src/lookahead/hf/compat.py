"""What Lookahead knows of transformers' internals, and nobody else here does (5.16.1 to 5.23)."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import CompileConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel, cache_utils
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.generation import utils as generation_utils
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module
from transformers.utils.generic import ModelOutput

CACHE_NAMES = ("past_key_values", "cache_params", "state")
"""Under which of the model's inputs `generate` keeps the cache: attention models, Mamba, RWKV."""

TOKEN_TYPE_NAMES = ("token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids")
"""Inputs that say of each token of what type it is."""

INPUTS_ABOUT_IMAGES = frozenset(
    {
        "audio_feature_lengths",
        "batch_num_images",
        "downsample_mode",
        "feature_attention_mask",
        "image_grid_thw",
        "image_merge_sizes",
        "image_position_ids",
        "num_frames_per_video",
        "second_per_grid_ts",
        "spatial_shapes",
        "target_sizes",
        "target_sizes_videos",
        "use_audio_in_video",
        "video_compression_mask",
        "video_grid_thw",
        "video_merge_sizes",
        "video_position_ids",
        "video_second_per_grid",
        "vision_aspect_ratio",
        "vision_feature_layer",
        "vision_feature_select_strategy",
    }
)
"""What every step is given and models read only beside pictures and sounds, or to find out positions."""

_CONTEXT_NAMES = ("max_position_embeddings", "max_seq_len", "seq_length")


@dataclass(frozen=True)
class AttentionLayout:
    """How a model's layers see the past.

    Attributes:
        windows: by layer type, the sliding window in tokens, or None for full attention.
        chunks: by layer type, for those that see only their own chunk, its tokens.
        kept: by layer, how many tokens its own cache would keep, the current one included; None for all.
        borrowing: layers that keep nothing: they use the keys and values of others (Gemma 3n and 4) or none.
        unsupported: why no arena can take the place of the model's own cache; empty where one can.
    """

    windows: dict[str, int | None] = field(default_factory=dict)
    chunks: dict[str, int] = field(default_factory=dict)
    kept: tuple[int | None, ...] = ()
    borrowing: frozenset[int] = frozenset()
    unsupported: str = ""


def text_config(model: PreTrainedModel) -> PreTrainedConfig:
    """Return the configuration of the model's decoder."""
    config: PreTrainedConfig = model.config.get_text_config(decoder=True)
    return config


@contextmanager
def decoding_experts(model: PreTrainedModel) -> Iterator[None]:
    """Within, a mixture of experts computes them as `generate` has them computed after the prompt."""
    untyped: Any = model
    switch = getattr(untyped, "_optimize_model_for_decode", nullcontext)
    with switch():
        yield


_EXPERT_COUNTS = (
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_num_experts",
    "num_moe_experts",
)


def has_experts(model: PreTrainedModel) -> bool:
    """Return whether a model sends tokens to experts of which it has several."""
    config = text_config(model)
    return any(isinstance(count := getattr(config, name, None), int) and count > 1 for name in _EXPERT_COUNTS)


def context_length(model: PreTrainedModel) -> int | None:
    """Return how many positions the model was made for, or None where it does not say."""
    config = text_config(model)
    lengths = (getattr(config, name, None) for name in _CONTEXT_NAMES)
    return next((length for length in lengths if isinstance(length, int)), None)


def rope_entries(model: PreTrainedModel) -> list[dict[str, Any]]:
    """Return the rotary settings under new and old names, and where layer types have their own also those."""
    config = text_config(model)
    found = (getattr(config, name, None) for name in ("rope_parameters", "rope_scaling", "rotary"))
    entries: list[dict[str, Any]] = []
    for entry in found:
        if isinstance(entry, dict):
            entries += [entry, *(value for value in entry.values() if isinstance(value, dict))]
    return entries


def made_cache(model_kwargs: dict[str, Any]) -> object:
    """Return the cache among a model's inputs, whatever it is called there; None where there is none."""
    return next((model_kwargs[name] for name in CACHE_NAMES if model_kwargs.get(name) is not None), None)


def fresh_cache(model: PreTrainedModel) -> Cache | None:
    """Return an empty cache like the one that `generate` makes; None where it leaves that to the model."""
    untyped: Any = model
    makes_one = untyped._supports_default_dynamic_cache()  # noqa: SLF001
    return DynamicCache(config=text_config(model)) if makes_one else None


def holds_tokens(cache: Cache) -> bool:
    """Return whether a cache with layers has seen a token."""
    try:
        return int(cache.get_seq_length()) > 0
    except ValueError:  # no layer of it is an attention layer, and the others count no tokens
        return bool(cache.has_previous_state())


def attention_layout(model: PreTrainedModel, cache: object) -> AttentionLayout:
    """Read off the cache that `generate` made how the model's layers see the past."""
    if not isinstance(cache, Cache) or not cache.layers:
        return AttentionLayout(unsupported="it keeps something other than a key-value cache")
    config = text_config(model)
    types = getattr(config, "layer_types", None) or [_type_of(config, layer) for layer in cache.layers]
    if len(types) - len(cache.layers) == getattr(config, "num_kv_shared_layers", None):
        types = types[: len(cache.layers)]  # before 5.23 layers that keep nothing have no place in the cache
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


def keeping_nothing() -> Any:
    """Return a cache layer of the library's for a layer that keeps nothing; older versions have none."""
    return cache_utils.DummyLayer()


def _keeps_nothing(layer: object) -> bool:
    return type(layer).__name__ == "DummyLayer"


_LAYER_TYPES = frozenset({"full_attention", "sliding_attention", "chunked_attention"})


def _type_of(config: PreTrainedConfig, layer: object) -> str:
    if not isinstance(layer, DynamicSlidingWindowLayer):
        return "full_attention"
    is_chunked = getattr(config, "sliding_window", None) is None and hasattr(config, "attention_chunk_size")
    return "chunked_attention" if is_chunked else "sliding_attention"


def streamers_come_first() -> bool:
    """Return whether `generate` hands a token to the streamer before it asks the stopping criteria.

    It did so in 5.16; 5.23 asks first.
    """
    return not hasattr(generation_utils, "StopCheck")


def marks_callers_caches() -> bool:
    """Return whether `generate` marks a cache that it was given; 5.16 does not, 5.23 does."""
    return hasattr(generation_utils, "StopCheck")


def mark_callers_cache(arguments: dict[str, Any]) -> None:
    """Mark a cache among the arguments of `generate` as the caller's, as 5.23 itself does."""
    cache = made_cache(arguments)
    if isinstance(cache, Cache):
        cache._is_user_defined = True  # type: ignore[attr-defined]  # noqa: SLF001


def has_loop_of_its_own(model: PreTrainedModel) -> bool:
    """Return whether the model's class samples in another way than the library's (CSM, Higgs Audio)."""
    own = getattr(type(model), "_sample", GenerationMixin._sample)  # noqa: SLF001  # an adapter's wrapper has none
    return own is not GenerationMixin._sample  # noqa: SLF001


def waits_for_other_ranks(model: PreTrainedModel) -> bool:
    """Return whether `generate` keeps processes in step that share the model's weights (FSDP, ZeRO-3)."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return False
    return bool(is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model))


def takes_cache(model: PreTrainedModel) -> bool:
    """Return whether the model keeps its past where others do; GPT-1 keeps none."""
    return "past_key_values" in signature(model.forward).parameters


def looks_across(model: PreTrainedModel) -> bool:
    """Return whether layers of the model attend to images themselves, whose keys its cache holds (Mllama)."""
    return bool(getattr(text_config(model), "cross_attention_layers", None))


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


def prefill_as_library(
    model: PreTrainedModel, input_ids: Tensor, generation_config: Any, model_kwargs: dict[str, Any]
) -> tuple[Tensor, dict[str, Any]]:
    """Read the prompts as `generate` does, cache and all.

    Returns:
        Logits [B, 1, V] after the prompts, and the model's inputs for the next step.
    """
    untyped: Any = model
    outputs = untyped._prefill(input_ids, generation_config, model_kwargs)  # noqa: SLF001
    updated = untyped._update_model_kwargs_for_generation(outputs, model_kwargs, False)  # noqa: SLF001
    return outputs.logits[:, -1:], updated


def step_as_library(
    model: PreTrainedModel, input_ids: Tensor, model_kwargs: dict[str, Any]
) -> tuple[Tensor, dict[str, Any]]:
    """Do a step as `generate` does, behind the tokens so far [B, L].

    Returns:
        Logits [B, 1, V], and the model's inputs for the next step.
    """
    untyped: Any = model
    last = 1 if model_kwargs["use_cache"] else None
    inputs = untyped.prepare_inputs_for_generation(input_ids, next_sequence_length=last, **model_kwargs)
    outputs = untyped(**inputs, return_dict=True)
    updated = untyped._update_model_kwargs_for_generation(outputs, model_kwargs, False)  # noqa: SLF001
    return outputs.logits[:, -1:], updated


def inputs_of_first_step(
    model: PreTrainedModel, input_ids: Tensor, model_kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return what `generate` would give the model in the step behind the prompts, whatever token comes first.

    Args:
        model: the model.
        input_ids: int64 [B, L], the prompts.
        model_kwargs: as `generate` prepared them, with a cache that says it holds the prompts.

    Raises:
        Exception: whatever a model's code raises that wants the prefill's outputs.
    """
    untyped: Any = model
    tokens = torch.cat([input_ids, input_ids.new_zeros(len(input_ids), 1)], dim=1)
    updated = untyped._update_model_kwargs_for_generation(ModelOutput(), dict(model_kwargs), False)  # noqa: SLF001
    inputs: dict[str, Any] = untyped.prepare_inputs_for_generation(tokens, next_sequence_length=1, **updated)
    return inputs


def forward_in_emptied_cache(
    model: PreTrainedModel, input_ids: Tensor, model_kwargs: dict[str, Any], **preparation: Any
) -> Tensor | None:
    """Do the forward in which `generate` would start the cache anew, as longrope models like Phi-3 do.

    Args:
        model: the model.
        input_ids: int64 [1, L], all tokens so far.
        model_kwargs: as `generate` would have them, an `ArenaCache` among them.
        **preparation: what `generate` tells `prepare_inputs_for_generation` beside them.

    Returns:
        Logits [1, k, V]; None where the model keeps its cache, and nothing has been done.
    """
    untyped: Any = model
    inputs = untyped.prepare_inputs_for_generation(input_ids, **preparation, **model_kwargs)
    if inputs.get("past_key_values") is not None:
        return None
    cache = model_kwargs["past_key_values"]
    cache.arena.truncate(0)
    outputs = untyped(**{**inputs, "past_key_values": cache}, return_dict=True)
    logits: Tensor = outputs.logits
    return logits


def extra_inputs(model: PreTrainedModel, prefix_length: int, tokens: int) -> dict[str, Tensor]:
    """Return what `generate` gives models with code of their own beside the usual: the tokens' slots."""
    if is_the_librarys(model) or "cache_position" not in signature(model.forward).parameters:
        return {}
    return {"cache_position": torch.arange(prefix_length, prefix_length + tokens, device=model.device)}


def is_the_librarys(model: PreTrainedModel) -> bool:
    """Return whether the model's code is the library's, not some that came with its weights."""
    return type(model).__module__.startswith("transformers.")


def compiled_on_any_device() -> CompileConfig:
    """Return what has `generate` compile its steps on the CPU as well; the library's own choice is GPUs."""
    config = CompileConfig(fullgraph=False, mode="default")
    private: Any = config
    private._compile_all_devices = True  # noqa: SLF001
    return config
