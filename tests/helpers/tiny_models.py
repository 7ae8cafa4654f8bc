"""Small random models and what to say to them; the models are those of `research/families`."""

import string
import warnings

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from research.families.families import VOCABULARY, family_model

MAIN_FAMILIES = ["llama", "gemma3", "llama4_text", "bloom"]
"""One of each kind: full attention, windows, chunks, a bias by places. All products are theirs."""

KINDS = [
    *MAIN_FAMILIES,
    *("gpt2", "opt", "ctrl", "openai-gpt", "mpt", "falcon-alibi"),
    *("mixtral", "gpt_oss", "deepseek_v3", "longcat_flash", "doge", "gpt_neo"),
    *("mistral", "gemma2", "gemma3n", "modernbert-decoder", "phi3-longrope", "llama-dynamic-rope"),
    *("mamba", "jamba", "qwen3_next", "lfm2", "deepseek_v32", "cpmant"),
]
"""One family of each kind, by what tells one from another in drafting.

How it knows positions (rotary, learned, behind an offset, sinusoids, a bias by places or by the mask,
rotary ones that change with the length), what it sees (all, windows, chunks, soft caps, sinks, a choice of
keys), what it keeps (keys and values, latent ones, two for a layer, another layer's, a
state of its own or beside keys, nothing), experts.
"""

FUSED_VOCABULARY = 131
"""Tokens of the models below: no multiple of what products take at once."""
_FUSING: dict[str, object] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "head_dim": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": FUSED_VOCABULARY,
    "max_position_embeddings": 2048,
}
_WINDOWS = {"use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention"]}
_FACTORS = {"short_factor": [1.0] * 16, "long_factor": [3.0] * 16, "original_max_position_embeddings": 32}


def _rope(kind: str, **settings: object) -> dict[str, object]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **settings}}


COMPILED: dict[str, tuple[str, dict[str, object]]] = {
    "fused-llama": ("llama", {}),
    "fused-llama-tied": ("llama", {"tie_word_embeddings": True, "num_attention_heads": 4}),
    "fused-mistral": ("mistral", {"sliding_window": 9, "num_attention_heads": 4, "num_key_value_heads": 2}),
    "fused-qwen2": ("qwen2", {"sliding_window": 9, "num_key_value_heads": 2, **_WINDOWS}),
    "fused-qwen3": ("qwen3", {"num_attention_heads": 4, "num_key_value_heads": 2}),
    "fused-dynamic": ("llama", {**_rope("dynamic", factor=2.0), "max_position_embeddings": 32}),
    "fused-longrope": ("llama", _rope("longrope", **_FACTORS)),
    "fused-llama3": (
        "llama",
        _rope(
            "llama3",
            factor=4.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=64,
        ),
    ),
    "fused-yarn": ("qwen2", _rope("yarn", factor=4.0, original_max_position_embeddings=512)),
}
"""Models of a shape whose steps are fused: the library's name of each, and its settings."""


def tiny_model(family: str, dtype: torch.dtype = torch.float32, **settings: object) -> PreTrainedModel:
    if family in COMPILED:
        family, differing = COMPILED[family]
        settings = {**_FUSING, **differing, **settings}
    with warnings.catch_warnings():  # transformers 5.16 compiles GPT-BigCode with what torch has deprecated
        warnings.simplefilter("ignore", DeprecationWarning)
        model = family_model(family, dtype, **settings)
    if family == "gemma2":  # 5.16 gives it an attention that leaves out its soft cap
        model.set_attn_implementation("eager")
    return model


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each of 64 characters."""
    characters = string.ascii_letters + string.digits + "!?"
    alphabet = {character: index for index, character in enumerate(characters)}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="a")


def prompt(seed: int, length: int = 12) -> torch.Tensor:
    """int64 [1, length], with repetition, so that there is something to draft."""
    generator = torch.Generator().manual_seed(seed)
    piece = torch.randint(3, VOCABULARY, (1, (length + 1) // 2), generator=generator)
    return torch.cat([piece, piece], dim=1)[:, :length]
