"""A model's shape without its weights: real sizes, random numbers, for measuring how long steps take."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from lookahead.errors import ConfigError, NotFoundError, UnsupportedModelError
from lookahead.hf.machine.dtypes import resolve_dtype
from lookahead.hf.models.loading import resolve_device

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
"""Configurations as their authors published them, the base models'."""


def random_model(
    shape: str,
    dtype: torch.dtype | str = torch.bfloat16,
    device: str | None = None,
    *,
    layers: int | None = None,
) -> PreTrainedModel:
    """A model of a shape in eval mode, every time with the same random weights.

    Torch's generator is left alone. The weights are made where and in the format they are wanted, never in
    float32 first.

    Args:
        shape: a key of `SHAPES`, or a path to a `config.json` or to a folder with one.
        dtype: a torch dtype or its name.
        device: where to put it; None takes the first CUDA device where there is one, else the CPU.
        layers: make only so many of its layers.

    Raises:
        ConfigError: the shape is unknown, or it has fewer layers; the dtype or the device is not allowed.
        NotFoundError: there is no such file.
        UnsupportedModelError: the file describes no decoder-only model that the library knows, or there is no
            memory for it.
    """
    torch_dtype, target = resolve_dtype(dtype), resolve_device(device)
    config = shape_config(shape, layers=layers)
    with torch.random.fork_rng(devices=[target] if target.type == "cuda" else []), target:
        torch.manual_seed(0)
        try:
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch_dtype)
        except Exception as error:  # whatever it is: a wrong kind of model, or no memory for it
            raise UnsupportedModelError(_unusable(shape, error)) from error
    model.eval()
    return model


def shape_config(shape: str, *, layers: int | None = None) -> PreTrainedConfig:
    """The configuration of a shape, with fewer layers where that is wanted.

    Args:
        shape: as for `random_model`.
        layers: as for `random_model`.

    Raises:
        LookaheadError: as for `random_model`.
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
    except Exception as error:  # a configuration's own code says what is wrong with it in errors of all kinds
        raise UnsupportedModelError(_unusable(shape, error)) from error


def _read(shape: str) -> Mapping[str, Any]:
    path = Path(shape).expanduser()
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        message = f"{shape!r} is no shape: choose from {', '.join(SHAPES)}, or give the path of a config.json"
        raise NotFoundError(message)
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        message = f"{path} cannot be read as a model's config.json: {error}"
        raise ConfigError(message) from error
    if not isinstance(settings, dict) or not isinstance(settings.get("model_type"), str):
        message = f"{path} names no model_type; give a model's config.json"
        raise ConfigError(message)
    return settings


def _unusable(shape: str, error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    return (
        f"{shape!r} cannot be made a model: {reason:.300}; give a decoder-only model's config.json, and "
        "fewer layers where memory is short"
    )
