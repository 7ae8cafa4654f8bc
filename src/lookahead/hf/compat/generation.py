"""What Lookahead knows of transformers' internals, and nobody else here does (5.16.1 to 5.23)."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation import utils as generation_utils
from transformers.utils.generic import ModelOutput

from lookahead.hf.compat.config import is_the_librarys

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


@contextmanager
def decoding_experts(model: PreTrainedModel) -> Iterator[None]:
    """Within, a mixture of experts computes them as `generate` has them computed after the prompt."""
    untyped: Any = model
    switch = getattr(untyped, "_optimize_model_for_decode", nullcontext)
    with switch():
        yield


def streamers_come_first() -> bool:
    """Return whether `generate` hands a token to the streamer before it asks the stopping criteria.

    It did so in 5.16; 5.23 asks first.
    """
    return not hasattr(generation_utils, "StopCheck")


def prefill(
    model: PreTrainedModel,
    input_ids: Tensor,
    generation_config: Any,
    model_kwargs: dict[str, Any],
    *,
    max_logits: int,
) -> Tensor:
    """Read the prompt exactly as `generate` does.

    Returns:
        Logits [B, k, V] after the prompts' last k tokens, the first new token's last; k is `max_logits`, or
        less where the model or the way the prompt is read gives fewer.
    """
    untyped: Any = model  # the library's own types do not know its private method
    if max_logits > 1 and "logits_to_keep" in model_kwargs:
        model_kwargs = {**model_kwargs, "logits_to_keep": max_logits}
    outputs = untyped._prefill(input_ids, generation_config, model_kwargs)
    logits: Tensor = outputs.logits[:, -max_logits:]
    return logits


def prefill_as_library(
    model: PreTrainedModel, input_ids: Tensor, generation_config: Any, model_kwargs: dict[str, Any]
) -> tuple[Tensor, dict[str, Any]]:
    """Read the prompts as `generate` does, cache and all.

    Returns:
        Logits [B, 1, V] after the prompts, and the model's inputs for the next step.
    """
    untyped: Any = model
    outputs = untyped._prefill(input_ids, generation_config, model_kwargs)
    updated = untyped._update_model_kwargs_for_generation(outputs, model_kwargs, False)
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
    updated = untyped._update_model_kwargs_for_generation(outputs, model_kwargs, False)
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
    updated = untyped._update_model_kwargs_for_generation(ModelOutput(), dict(model_kwargs), False)
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
    cache.arena.clear()
    outputs = untyped(**{**inputs, "past_key_values": cache}, return_dict=True)
    logits: Tensor = outputs.logits
    return logits


def extra_inputs(model: PreTrainedModel, prefix_length: int, tokens: int) -> dict[str, Tensor]:
    """Return what `generate` gives models with code of their own beside the usual: the tokens' slots."""
    if is_the_librarys(model) or "cache_position" not in signature(model.forward).parameters:
        return {}
    return {"cache_position": torch.arange(prefix_length, prefix_length + tokens, device=model.device)}


def takes_logits_to_keep(model: PreTrainedModel) -> bool:
    """Return whether the model can be asked for the logits of the last tokens alone."""
    return "logits_to_keep" in signature(model.forward).parameters


def pad_token_of(generation_config: Any) -> int:
    """Return the token that finished rows are padded with."""
    token = generation_config._pad_token_tensor
    return 0 if token is None else int(token)
