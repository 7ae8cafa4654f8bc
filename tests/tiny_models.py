"""Small random models of several families: real architectures, nothing to fetch, milliseconds a forward."""

import string

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

VOCABULARY = 64

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
_GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": None,
}
_OPT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "word_embed_proj_dim": 32,
    "init_std": 0.3,
    "eos_token_id": None,
}
_NEOX = {key: value for key, value in _COMMON.items() if key != "num_key_value_heads"}
_BLOOM = {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}

# name: (model type, settings). "windowed" means a sliding window far shorter than the tests' texts.
FAMILIES = {
    "llama": ("llama", _COMMON),
    "qwen2": ("qwen2", _COMMON),
    "mistral-windowed": ("mistral", {**_COMMON, "sliding_window": 8}),
    "gemma3-hybrid": (
        "gemma3_text",
        {
            **_COMMON,
            "num_hidden_layers": 3,
            "head_dim": 8,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
    ),
    "gpt2": ("gpt2", _GPT2),
    "opt": ("opt", _OPT),
    "gpt_neox": ("gpt_neox", _NEOX),
    "phi3": ("phi3", _COMMON),
}
PLAIN_ONLY = {
    "bloom": ("bloom", _BLOOM),
    "llama-dynamic-rope": (
        "llama",
        {**_COMMON, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}},
    ),
}


def tiny_model(
    family: str, dtype: torch.dtype = torch.float32, *, vocabulary: int = VOCABULARY
) -> PreTrainedModel:
    model_type, settings = {**FAMILIES, **PLAIN_ONLY}[family]
    settings = {**settings, "vocab_size": vocabulary}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings))
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval().to(dtype)


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
