"""The private functions of `generate` that Lookahead calls (transformers 5.16.1 to 5.23)."""

from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation import utils as generation_utils
from transformers.utils.generic import ModelOutput

from lookahead.hf.compat.changes import TemporaryChanges
from lookahead.hf.compat.config import is_library_code

TOKEN_TYPE_NAMES = ("token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids")
"""Inputs that give the type of each token."""

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
"""Inputs that every step gets but models read only with images or audio, or to compute positions."""


def switch_experts(model: PreTrainedModel, changes: TemporaryChanges) -> None:
    """Compute experts as `generate` computes them after the prompt, until the changes are undone."""
    untyped: Any = model
    switch = getattr(untyped, "_optimize_model_for_decode", None)
    if switch is None:
        return
    if hasattr(untyped, "get_experts_implementation"):
        before = untyped.get_experts_implementation()
        changes.undo_by(lambda: _restore_experts(untyped, before))
    context = switch()
    changes.undo_by(lambda: context.__exit__(None, None, None))
    context.__enter__()


def _restore_experts(model: Any, before: object) -> None:
    if model.get_experts_implementation() != before:
        model.set_experts_implementation(before)


def streamers_come_first() -> bool:
    """Return whether `generate` calls the streamer before the stopping criteria, as in 5.16 but not 5.23."""
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
        Logits [B, k, V] after each prompt's last k tokens; k is `max_logits`, or less if the prefill returns
        fewer.
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
    """Read the prompts as `generate` does, in the library's own cache.

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
    """Do one step as `generate` does, after the tokens so far, [B, L].

    Returns:
        Logits [B, 1, V], and the model's inputs for the next step.
    """
    untyped: Any = model
    last = 1 if model_kwargs["use_cache"] else None
    inputs = untyped.prepare_inputs_for_generation(input_ids, next_sequence_length=last, **model_kwargs)
    outputs = untyped(**inputs, return_dict=True)
    updated = untyped._update_model_kwargs_for_generation(outputs, model_kwargs, False)
    return outputs.logits[:, -1:], updated


def sample_as_library(model: PreTrainedModel, input_ids: Tensor, **prepared: Any) -> Any:
    """Decode a prepared call in the library's own loop, greedy or sampling; return its result."""
    untyped: Any = type(model)
    return untyped._sample(model, input_ids, **prepared)


def first_step_inputs(
    model: PreTrainedModel, input_ids: Tensor, model_kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return the inputs that `generate` would give the model in the first step after the prompts.

    Args:
        model: The model.
        input_ids: int64 [B, L], the prompts.
        model_kwargs: As `generate` prepared them, with a cache that says it holds the prompts.

    Raises:
        Exception: The model's code needs the prefill's outputs; the type depends on the model.
    """
    untyped: Any = model
    tokens = torch.cat([input_ids, input_ids.new_zeros(len(input_ids), 1)], dim=1)
    updated = untyped._update_model_kwargs_for_generation(ModelOutput(), dict(model_kwargs), False)
    inputs: dict[str, Any] = untyped.prepare_inputs_for_generation(tokens, next_sequence_length=1, **updated)
    return inputs


def forward_with_cleared_cache(
    model: PreTrainedModel, input_ids: Tensor, model_kwargs: dict[str, Any], **preparation: Any
) -> Tensor | None:
    """Do the forward pass in which `generate` would restart the cache, as longrope models like Phi-3 do.

    Args:
        model: The model.
        input_ids: int64 [1, L], all tokens so far.
        model_kwargs: As `generate` would have them, including an `ArenaCache`.
        **preparation: Further arguments that `generate` gives `prepare_inputs_for_generation`.

    Returns:
        Logits [1, k, V]; None, with nothing done, if the model keeps its cache.
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
    """Return the further inputs that `generate` gives models with their own code: the tokens' slots."""
    if is_library_code(model) or "cache_position" not in signature(model.forward).parameters:
        return {}
    return {"cache_position": torch.arange(prefix_length, prefix_length + tokens, device=model.device)}


def takes_logits_to_keep(model: PreTrainedModel) -> bool:
    """Return whether the model can return only the logits of the last tokens."""
    return "logits_to_keep" in signature(model.forward).parameters


def pad_token_of(generation_config: Any) -> int:
    """Return the token that finished rows are padded with."""
    token = generation_config._pad_token_tensor
    return 0 if token is None else int(token)
