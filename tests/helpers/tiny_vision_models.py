"""Small random models that look at images, and prompts for them: nothing to fetch, milliseconds a forward."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from helpers.tiny_models import prompt

VOCABULARY = 64
IMAGE, START, END = 58, 59, 60
"""What stands for a piece of an image, and between what it stands."""
BEYOND = VOCABULARY + 5
"""A placeholder that is no token of the vocabulary."""

_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
_WINDOWS = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
_AXES = {
    "rope_parameters": {
        "rope_type": "default",
        "mrope_section": [2, 1, 1],
        "rope_theta": 10000.0,
        "partial_rotary_factor": 1.0,
    }
}
_TOWER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
_CLIP = {"model_type": "clip_vision_model", **_TOWER}
_SIGLIP = {"model_type": "siglip_vision_model", **_TOWER, "vision_use_head": False}
_GRID_TOWER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "out_hidden_size": 32,
    "depth": 2,
    "num_heads": 2,
    "patch_size": 4,
    "temporal_patch_size": 1,
    "in_channels": 3,
}
_WINDOW_TOWER = {**_GRID_TOWER, "window_size": 16, "fullatt_block_indexes": [1]}
_DEEP_TOWER = {**_GRID_TOWER, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
_QWEN_TOKENS = {
    "image_token_id": IMAGE,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
    "video_token_id": 61,
}
_GLM_TOKENS = {
    "image_token_id": IMAGE,
    "image_start_token_id": START,
    "image_end_token_id": END,
    "video_token_id": 61,
    "video_start_token_id": 62,
    "video_end_token_id": 63,
}

_GRIDS = [(1, 4, 6), (1, 4, 4), (1, 6, 6)]
"""Frames, rows and columns of patches of the rows' images, for models of Qwen's kind; four make a piece."""


def _of_shape(*shape: int) -> Callable[[int, torch.Generator], dict[str, Tensor]]:
    return lambda rows, generator: {"pixel_values": torch.rand(rows, *shape, generator=generator)}


_squares = _of_shape(3, 8, 8)


def _in_grids(rows: int, generator: torch.Generator) -> dict[str, Tensor]:
    grids = torch.tensor((_GRIDS * rows)[:rows])
    patches = int(grids.prod(-1).sum())
    return {"pixel_values": torch.rand(patches, 3 * 4 * 4, generator=generator), "image_grid_thw": grids}


def _with_places(rows: int, generator: torch.Generator) -> dict[str, Tensor]:
    places = torch.cartesian_prod(torch.arange(6), torch.arange(6))
    pixels = torch.rand(rows, 36, 3 * 4 * 4, generator=generator)
    return {"pixel_values": pixels, "image_position_ids": places[None].repeat(rows, 1, 1)}


def _in_tiles(rows: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {
        "pixel_values": torch.rand(rows, 1, 1, 3, 8, 8, generator=generator),
        "aspect_ratio_ids": torch.ones(rows, 1, dtype=torch.long),
        "aspect_ratio_mask": torch.ones(rows, 1, 1, dtype=torch.long),
    }


@dataclass(frozen=True)
class VisionModel:
    """A model's class, its settings, and how its prompts look.

    Attributes:
        name: of the class in transformers.
        model_type: of its configuration.
        settings: of its configuration.
        images: makes the inputs that hold an image for each row.
        types: the input that says which tokens belong to an image, if there is one.
        token: what stands for a piece of an image.
    """

    name: str
    model_type: str
    settings: dict
    images: Callable[[int, torch.Generator], dict[str, Tensor]] = _squares
    types: str | None = None
    token: int = IMAGE

    def pieces(self) -> Iterator[int]:
        """Yield how many tokens each row's image takes in the prompt."""
        while True:
            yield from (high * wide // 4 for _, high, wide in _GRIDS) if self.images is _in_grids else [4]


def _qwen(name: str, model_type: str, tower: dict, tokens: dict = _QWEN_TOKENS) -> VisionModel:
    settings = {"text_config": {**_TEXT, **_AXES}, "vision_config": tower, **tokens}
    return VisionModel(name, model_type, settings, _in_grids, "mm_token_type_ids")


def _gemma3(token: int) -> VisionModel:
    settings = {
        "text_config": {**_TEXT, **_WINDOWS},
        "vision_config": _SIGLIP,
        "mm_tokens_per_image": 4,
        "image_token_index": token,
    }
    return VisionModel(
        "Gemma3ForConditionalGeneration", "gemma3", settings, types="token_type_ids", token=token
    )


VISION_MODELS = {
    "qwen2_vl": _qwen(
        "Qwen2VLForConditionalGeneration",
        "qwen2_vl",
        {**_GRID_TOWER, "embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2},
    ),
    "qwen2_5_vl": _qwen("Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl", _WINDOW_TOWER),
    "qwen3_vl": _qwen("Qwen3VLForConditionalGeneration", "qwen3_vl", _DEEP_TOWER),
    "glm4v": _qwen("Glm4vForConditionalGeneration", "glm4v", {**_GRID_TOWER, "image_size": 16}, _GLM_TOKENS),
    "llava": VisionModel(
        "LlavaForConditionalGeneration",
        "llava",
        {
            "text_config": {"model_type": "llama", **_TEXT},
            "vision_config": _CLIP,
            "image_token_index": IMAGE,
        },
    ),
    "gemma3": _gemma3(IMAGE),
    "gemma3-placeholder-beyond-the-vocabulary": _gemma3(BEYOND),
    "gemma4": VisionModel(
        "Gemma4ForConditionalGeneration",
        "gemma4",
        {
            "text_config": {
                **_TEXT,
                **_WINDOWS,
                "global_head_dim": 8,
                "hidden_size_per_layer_input": 0,
                "num_kv_shared_layers": 0,
            },
            "vision_config": {
                **_TOWER,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "position_embedding_size": 64,
                "pooling_kernel_size": 3,
            },
            "image_token_id": IMAGE,
            "audio_config": None,
        },
        _with_places,
        "mm_token_type_ids",
    ),
    "paligemma": VisionModel(
        "PaliGemmaForConditionalGeneration",
        "paligemma",
        {
            "text_config": {"model_type": "gemma", **_TEXT},
            "vision_config": _SIGLIP,
            "projection_dim": 32,
            "hidden_size": 32,
            "image_token_index": IMAGE,
        },
        types="token_type_ids",
    ),
    "smolvlm": VisionModel(
        "SmolVLMForConditionalGeneration",
        "smolvlm",
        {
            "text_config": {"model_type": "llama", **_TEXT},
            "vision_config": {**_TOWER, "image_size": 16},
            "scale_factor": 2,
            "image_token_id": IMAGE,
        },
        _of_shape(1, 3, 16, 16),
    ),
    "internvl": VisionModel(
        "InternVLForConditionalGeneration",
        "internvl",
        {
            "text_config": {"model_type": "qwen2", **_TEXT},
            "vision_config": {**_TOWER, "image_size": [16, 16], "patch_size": [4, 4]},
            "image_token_id": IMAGE,
        },
        _of_shape(3, 16, 16),
    ),
    "exaone4_5": VisionModel(
        "Exaone4_5_ForConditionalGeneration",
        "exaone4_5",
        {
            "text_config": {"model_type": "exaone4", **_TEXT},
            "vision_config": {**_WINDOW_TOWER, "num_key_value_heads": 2},
            **_QWEN_TOKENS,
        },
        _in_grids,
    ),
    "mllama": VisionModel(
        "MllamaForConditionalGeneration",
        "mllama",
        {
            "text_config": {
                **_TEXT,
                "cross_attention_layers": [1],
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            },
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_global_layers": 1,
                "attention_heads": 2,
                "image_size": 8,
                "patch_size": 4,
                "vision_output_dim": 32,
                "intermediate_layers_indices": [0],
                "max_num_tiles": 1,
                "supported_aspect_ratios": [[1, 1]],
            },
            "image_token_index": IMAGE,
        },
        _in_tiles,
    ),
}


def tiny_vision_model(family: str) -> PreTrainedModel:
    """Return a random model, the same one every time."""
    described = VISION_MODELS[family]
    config = AutoConfig.for_model(described.model_type, tie_word_embeddings=False, **described.settings)
    torch.manual_seed(0)
    model: PreTrainedModel = getattr(transformers, described.name)(config).eval()
    for name, weight in model.named_parameters():
        if name.endswith(
            ("mm_input_projection_weight", "attn_gate", "mlp_gate", "patch_embedder.input_proj.weight")
        ):
            torch.nn.init.normal_(weight)  # nothing or next to it, with which no image would matter
    model.generation_config.pad_token_id = 0
    return model


def image_inputs(family: str, rows: int = 1, *, image: int = 7) -> dict[str, Tensor]:
    """Return what a processor would make of an image and words for each row, of different lengths.

    Args:
        family: of `VISION_MODELS`.
        rows: of the batch, padded on the left.
        image: its seed.
    """
    described = VISION_MODELS[family]
    prompts = [
        _prompt(row, described.token, pieces)
        for row, pieces in zip(range(rows), described.pieces(), strict=False)
    ]
    longest = max(map(len, prompts))
    paddings = [longest - len(token_ids) for token_ids in prompts]
    token_ids = torch.stack(
        [torch.nn.functional.pad(row, (pad, 0)) for row, pad in zip(prompts, paddings, strict=True)]
    )
    mask = (torch.arange(longest)[None] >= torch.tensor(paddings)[:, None]).long()
    images = described.images(rows, torch.Generator().manual_seed(image))
    inputs = {"input_ids": token_ids, "attention_mask": mask, **images}
    if described.model_type == "paligemma":  # there the whole prompt is of one type, the answer of another
        inputs["token_type_ids"] = torch.zeros_like(token_ids)
    elif described.types is not None:
        inputs[described.types] = (token_ids == described.token).long()
    return inputs


def _prompt(seed: int, token: int, pieces: int) -> Tensor:
    words = prompt(seed, 12 - 3 * (seed % 2))[0] % IMAGE
    picture = torch.tensor([START, *[token] * pieces, END])
    return torch.cat([words[:3], picture, words[3:]])
