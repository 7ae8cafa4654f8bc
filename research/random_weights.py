"""Models of real sizes with random weights, for measuring step times."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from lookahead.errors import ConfigError, NotFoundError, UnsupportedModelError, first_line
from lookahead.hf.machine.devices import resolve_device
from lookahead.hf.machine.dtypes import resolve_dtype

_LLAMA_2: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 32_000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    "tie_word_embeddings": False,
}
_QWEN_2_5: dict[str, Any] = {
    "model_type": "qwen2",
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    "use_sliding_window": False,
}
SHAPES: dict[str, dict[str, Any]] = {
    "llama-2-7b": {
        **_LLAMA_2,
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
    "llama-2-13b": {
        **_LLAMA_2,
        "hidden_size": 5120,
        "intermediate_size": 13_824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
    },
    "qwen2.5-0.5b": {
        **_QWEN_2_5,
        "vocab_size": 151_936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32_768,
        "tie_word_embeddings": True,
    },
    "qwen2.5-7b": {
        **_QWEN_2_5,
        "vocab_size": 152_064,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131_072,
        "tie_word_embeddings": False,
    },
}
"""Configurations of base models, as published."""


def random_model(
    shape: str,
    dtype: torch.dtype | str = torch.bfloat16,
    device: str | None = None,
    *,
    layers: int | None = None,
) -> PreTrainedModel:
    """Return a model of a shape, in eval mode, always with the same random weights.

    Torch's generator is left alone. The weights are created on the device in their dtype, never in float32
    first.

    Args:
        shape: A key of `SHAPES`, or a path to a `config.json` or to a folder with one.
        dtype: A torch dtype or its name.
        device: The target device; None takes the first CUDA device, or the CPU if there is none.
        layers: Create only the first N layers; all if None.

    Raises:
        ConfigError: The shape has fewer layers, a dtype or device is not allowed, or the file is malformed.
        NotFoundError: There is no such shape or file.
        UnsupportedModelError: The file does not describe a decoder-only model that transformers knows, or
            memory does not suffice.
    """
    torch_dtype = resolve_dtype(dtype)
    holds_no_weights = device == "meta"
    target = torch.device("meta") if holds_no_weights else resolve_device(device)
    config = shape_config(shape, layers=layers)
    with torch.random.fork_rng(devices=[target] if target.type == "cuda" else []), target:
        torch.manual_seed(0)
        try:
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch_dtype)
        except Exception as error:  # a wrong kind of model, or too little memory
            raise UnsupportedModelError(_unusable(shape, error)) from error
    model.eval()
    return model


def shape_config(shape: str, *, layers: int | None = None) -> PreTrainedConfig:
    """Return the configuration of a shape, cut to its first `layers` layers.

    Args:
        shape: As for `random_model`.
        layers: As for `random_model`.

    Raises:
        LookaheadError: As for `random_model`.
    """
    settings = dict(SHAPES[shape] if shape in SHAPES else _read(shape))
    config = _config(shape, settings)
    if layers is None:
        return config
    all_layers = getattr(config, "num_hidden_layers", 1)
    if not 1 <= layers <= all_layers:
        message = f"layers={layers} is not allowed; {shape} has {all_layers}, give 1 to {all_layers}"
        raise ConfigError(message)
    fewer: dict[str, Any] = {"num_hidden_layers": layers}
    if settings.get("layer_types"):
        fewer["layer_types"] = settings["layer_types"][:layers]
    return _config(shape, {**settings, **fewer})


def _config(shape: str, settings: Mapping[str, Any]) -> PreTrainedConfig:
    try:
        return AutoConfig.for_model(**settings)
    except Exception as error:  # configuration classes raise errors of all kinds
        raise UnsupportedModelError(_unusable(shape, error)) from error


def _read(shape: str) -> Mapping[str, Any]:
    path = Path(shape).expanduser()
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        message = f"shape {shape!r} is unknown; choose {', '.join(SHAPES)}, or give the path of a config.json"
        raise NotFoundError(message)
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        message = f"{path} cannot be read as JSON ({first_line(error)}); give a model's config.json"
        raise ConfigError(message) from error
    if not isinstance(settings, dict) or not isinstance(settings.get("model_type"), str):
        message = f"{path} names no model_type; give a model's config.json"
        raise ConfigError(message)
    return settings


def _unusable(shape: str, error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    return (
        f"cannot create a model of shape {shape!r}: {reason:.300}; give a decoder-only model's config.json, "
        "or fewer layers if memory is short"
    )
