"""Facts about a model, read from its configuration and code."""

from inspect import signature
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module

_CONTEXT_NAMES = ("max_position_embeddings", "max_seq_len", "seq_length")


def text_config(model: PreTrainedModel) -> PreTrainedConfig:
    """Return the configuration of the model's decoder."""
    config: PreTrainedConfig = model.config.get_text_config(decoder=True)
    return config


_EXPERT_COUNTS = (
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_num_experts",
    "num_moe_experts",
)


def has_experts(model: PreTrainedModel) -> bool:
    """Return whether a model is a mixture of experts."""
    config = text_config(model)
    return any(isinstance(count := getattr(config, name, None), int) and count > 1 for name in _EXPERT_COUNTS)


def context_length(model: PreTrainedModel) -> int | None:
    """Return the number of positions the model supports; None if its configuration does not say."""
    config = text_config(model)
    lengths = (getattr(config, name, None) for name in _CONTEXT_NAMES)
    return next((length for length in lengths if isinstance(length, int)), None)


def rope_entries(model: PreTrainedModel) -> list[dict[str, Any]]:
    """Return the rotary settings under their new and old names, including those of single layer types."""
    config = text_config(model)
    found = (getattr(config, name, None) for name in ("rope_parameters", "rope_scaling", "rotary"))
    entries: list[dict[str, Any]] = []
    for entry in found:
        if isinstance(entry, dict):
            entries += [entry, *(value for value in entry.values() if isinstance(value, dict))]
    return entries


_LIBRARY_LOOP = "GenerationMixin._sample"
_LIBRARY_FOLDER = Path(transformers.__file__).parent


def own_sampling_loop(model: PreTrainedModel) -> str:
    """Return the name of the sampling loop that a model has instead of the library's; empty if it has none.

    It may be its class's (CSM, Higgs Audio), a parent's or the model's own, or have replaced the library's
    for all models. The library's is known by its code: what `GenerationMixin` has may be a replacement, made
    before or after Lookahead was imported.
    """
    found = getattr(model, "_sample", GenerationMixin._sample)  # an adapter's wrapper may have none
    loop = getattr(found, "__func__", found)
    code = getattr(loop, "__code__", None)
    if code is None:
        return f"_sample is a {type(loop).__name__}"
    if code.co_qualname == _LIBRARY_LOOP and Path(code.co_filename).is_relative_to(_LIBRARY_FOLDER):
        return ""
    return f"_sample is {code.co_qualname} in {code.co_filename}"


def waits_for_other_ranks(model: PreTrainedModel) -> bool:
    """Return whether `generate` runs in lockstep with other processes (FSDP, ZeRO-3)."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return False
    return bool(is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model))


def takes_cache(model: PreTrainedModel) -> bool:
    """Return whether the model takes a key-value cache; GPT-1 does not."""
    return "past_key_values" in signature(model.forward).parameters


def has_cross_attention(model: PreTrainedModel) -> bool:
    """Return whether some layers attend to images, whose keys the cache holds (Mllama)."""
    return bool(getattr(text_config(model), "cross_attention_layers", None))


def takes_positions(model: PreTrainedModel) -> bool:
    """Return whether the model takes each token's position, which a tree needs."""
    return "position_ids" in signature(model.forward).parameters


def is_library_code(model: PreTrainedModel) -> bool:
    """Return whether the model's code is part of transformers, not loaded with its weights."""
    return type(model).__module__.startswith("transformers.")
