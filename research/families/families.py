"""Tiny random models of transformers' families: real architectures, nothing to download, fast forward passes.

They show what the probe decides for a family (`scripts/families.py`), and the parity tests use them.
Their windows and chunks are far shorter than the tests' texts, so every text crosses them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 64
WINDOW = 8
"""Tokens of the sliding windows and chunks."""

# Set on every family whose configuration has the field, whatever name it uses for the size.
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "n_positions": 256,
    "max_seq_len": 256,
    "context_length": 256,
    "hidden_size": 32,
    "n_embd": 32,
    "d_model": 32,
    "embedding_dim": 32,
    "word_embed_proj_dim": 32,
    "intermediate_size": 64,
    "ffn_dim": 64,
    "num_hidden_layers": 2,
    "num_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "num_attention_heads": 4,
    "attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": None,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,  # tied, many of them repeat one token for ever
    "init_std": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    # mixtures of experts
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    # latent attention
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "rotary_dim": 8,
}
_ALTERNATING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
_MAMBA2 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
_GATED_DELTA = {
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
_BORROWING = {  # the last two layers use the keys and values of the first two
    "sliding_window": WINDOW,
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
}
_SPARSE = {"q_lora_rank": 16, "index_topk": 8, "index_head_dim": 8, "index_n_heads": 2}
_LATENT = {"num_key_value_heads": 4, "head_dim": 4}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [3.0] * 4,
    "original_max_position_embeddings": 32,
}


@dataclass(frozen=True)
class Family:
    """A tiny model of a family.

    Attributes:
        model_type: transformers' name of the architecture.
        settings: Configuration values that differ from the shared sizes.
    """

    model_type: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def _default(*names: str) -> dict[str, Family]:
    return {name: Family(name) for name in names}


FAMILIES: dict[str, Family] = {
    **_default("llama", "arcee", "bitnet", "cohere", "diffllama", "ernie4_5", "ernie4_5_moe"),
    **_default("falcon", "flex_olmo", "gemma", "glm", "glm4", "glm4_moe", "gpt2", "gpt_bigcode"),
    **_default("gpt_neox", "gpt_neox_japanese", "gptj", "granite", "granitemoe", "granitemoeshared"),
    **_default("helium", "hunyuan_v1_dense", "hunyuan_v1_moe", "internlm3", "jais2", "jetmoe"),
    **_default("minimax_m2", "mixtral", "nanochat", "nemotron", "olmo", "olmo2", "olmoe", "openai-gpt"),
    **_default("opt", "persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe"),
    **_default("seed_oss", "stablelm", "starcoder2", "xglm", "apertus", "codegen"),
    **_default("hyperclovax", "iquestcoder", "solar_open", "hy_v3", "gpt-sw3", "bloom"),
    "mpt": Family("mpt", {"use_cache": True}),
    "aria_text": Family("aria_text", {"moe_num_experts": 4, "moe_topk": 2}),
    "axk1": Family("axk1", {**_LATENT, "q_lora_rank": 16}),
    "hrm_text": Family("hrm_text"),
    "longcat_flash": Family(
        "longcat_flash",
        {
            **_LATENT,
            "q_lora_rank": 16,
            "expert_ffn_hidden_size": 16,
            "ffn_hidden_size": 64,
            "zero_expert_num": 2,
            "moe_topk": 2,
        },
    ),
    "biogpt": Family("biogpt", {"scale_embedding": False}),
    "ctrl": Family("ctrl", {"dff": 64}),
    "doge": Family("doge", {"keep_window_size": 32}),
    "deepseek_v2": Family("deepseek_v2", _LATENT),
    "deepseek_v3": Family("deepseek_v3", _LATENT),
    "glm4_moe_lite": Family("glm4_moe_lite", _LATENT),
    "minicpm3": Family("minicpm3", _LATENT),
    "youtu": Family("youtu", _LATENT),
    "falcon-alibi": Family("falcon", {"alibi": True}),
    "falcon-new-decoder": Family("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "gpt_neo": Family(
        "gpt_neo", {"attention_types": [[["global", "local"], 1]], "num_heads": 4, "window_size": WINDOW}
    ),
    # sliding windows and chunks
    "afmoe": Family("afmoe", {**_ALTERNATING, "global_attn_every_n_layers": 2}),
    "cohere2": Family("cohere2", _ALTERNATING),
    "cwm": Family("cwm", _ALTERNATING),
    "dots1": Family("dots1", _ALTERNATING),
    "exaone4": Family("exaone4", _ALTERNATING),
    "exaone_moe": Family("exaone_moe", _ALTERNATING),
    "gemma2": Family("gemma2", _ALTERNATING),
    "gemma3": Family("gemma3_text", _ALTERNATING),
    "gpt_oss": Family("gpt_oss", _ALTERNATING),
    "beam": Family("beam", _ALTERNATING),
    "cohere2_moe": Family("cohere2_moe", _ALTERNATING),
    "flint": Family("flint", _ALTERNATING),
    "gemma3n": Family(
        "gemma3n_text", {**_BORROWING, "laurel_rank": 4, "activation_sparsity_pattern": [0.0] * 4}
    ),
    "gemma4": Family("gemma4_text", {**_BORROWING, "global_head_dim": 8, "num_global_key_value_heads": 2}),
    "granitemoe_swa": Family("granitemoe_swa", _ALTERNATING),
    "kolibri1": Family("kolibri1", _ALTERNATING),
    "laguna": Family("laguna", _ALTERNATING),
    "mellum": Family("mellum", _ALTERNATING),
    "granite_swa": Family("granite_swa", _ALTERNATING),
    "ministral": Family("ministral", {"sliding_window": WINDOW, "layer_types": ["sliding_attention"] * 2}),
    "ministral3": Family("ministral3"),
    "mistral": Family("mistral", {"sliding_window": WINDOW}),
    "mistral-full": Family("mistral"),
    "modernbert-decoder": Family("modernbert-decoder", {**_ALTERNATING, "local_attention": 2 * WINDOW}),
    "moshi": Family("moshi", {"sliding_window": WINDOW}),
    "mimo_v2_flash": Family("mimo_v2_flash", _ALTERNATING),
    "olmo3": Family("olmo3", _ALTERNATING),
    "qwen2-windowed": Family("qwen2", {**_ALTERNATING, "use_sliding_window": True}),
    "smollm3": Family("smollm3", {"no_rope_layers": [1, 0]}),
    "starcoder2-windowed": Family("starcoder2", {"sliding_window": WINDOW}),
    "vaultgemma": Family("vaultgemma", _ALTERNATING),
    "llama4_text": Family(
        "llama4_text",
        {
            "attention_chunk_size": WINDOW,
            "layer_types": ["chunked_attention", "full_attention"],
            "no_rope_layers": [1, 0],
            "intermediate_size_mlp": 64,
            "floor_scale": 24,
        },
    ),
    # rotary frequencies that depend on the length
    "phi3-longrope": Family(
        "phi3",
        {"rope_parameters": _LONGROPE, "original_max_position_embeddings": 32, "num_attention_heads": 4},
    ),
    "llama-longrope": Family("llama", {"rope_parameters": _LONGROPE}),
    "llama-dynamic-rope": Family(
        "llama",
        {
            "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
            "max_position_embeddings": 32,
        },
    ),
    # recurrent, hybrid and sparse
    **_default("minimax", "rwkv"),
    "lfm2": Family("lfm2", {"layer_types": ["conv", "full_attention"]}),
    "bamba": Family("bamba", {**_MAMBA2, "attn_layer_indices": [1]}),
    "bailing_hybrid": Family(
        "bailing_hybrid", {"layer_types": ["linear_attention", "full_attention"], "num_key_value_heads": 4}
    ),
    "cpmant": Family("cpmant", {"dim_head": 8, "dim_ff": 64}),
    "deepseek_v32": Family("deepseek_v32", {**_LATENT, **_SPARSE}),
    "glm_moe_dsa": Family("glm_moe_dsa", {**_LATENT, **_SPARSE, "indexer_types": ["full", "full"]}),
    "nemotron_h": Family(
        "nemotron_h",
        {
            "layers_block_type": ["linear_attention", "full_attention"],
            "mamba_num_heads": 4,
            "mamba_head_dim": 8,
            "ssm_state_size": 8,
            "n_groups": 1,
            "chunk_size": 8,
        },
    ),
    "qwen3_5": Family("qwen3_5_text", _GATED_DELTA),
    "zamba2": Family(
        "zamba2",
        {
            "mamba_d_state": 8,
            "n_mamba_heads": 4,
            "chunk_size": 8,
            "num_key_value_heads": 4,
            "layers_block_type": ["linear_attention", "hybrid"],
            "adapter_rank": 8,
        },
    ),
    "falcon_h1": Family("falcon_h1", {**_MAMBA2, "mamba_d_ssm": 64}),
    "falcon_mamba": Family("falcon_mamba", {"state_size": 4}),
    "granitemoehybrid": Family(
        "granitemoehybrid", {**_MAMBA2, "layer_types": ["linear_attention", "full_attention"]}
    ),
    "jamba": Family("jamba", {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False}),
    "mamba": Family("mamba", {"state_size": 4}),
    "mamba2": Family(
        "mamba2", {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8, "chunk_size": 8}
    ),
    "olmo_hybrid": Family("olmo_hybrid", _GATED_DELTA),
    "qwen3_next": Family("qwen3_next", _GATED_DELTA),
    "recurrent_gemma": Family(
        "recurrent_gemma", {"attention_window_size": WINDOW, "num_hidden_layers": 3, "lru_width": 32}
    ),
    "xlstm": Family("xlstm", {"hidden_size": 128, "embedding_dim": 128, "num_heads": 4}),
}


def is_installed(family: str) -> bool:
    """Return whether the installed transformers has a family's architecture."""
    return FAMILIES[family].model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def family_model(family: str, dtype: torch.dtype = torch.float32, **settings: object) -> PreTrainedModel:
    """Return a family's tiny model, always with the same random weights. Leaves torch's generator as it is.

    Args:
        family: A key of `FAMILIES` that is installed.
        dtype: Number format of the weights.
        **settings: Configuration values that replace the family's.
    """
    described = FAMILIES[family]
    known = AutoConfig.for_model(described.model_type)
    aliases: dict[str, str] = getattr(known, "attribute_map", {})
    names = {*known.to_dict(), *aliases}
    shared = {aliases.get(name, name): value for name, value in _SIZES.items() if name in names}
    config = AutoConfig.for_model(described.model_type, **{**shared, **described.settings, **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(config)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    made: PreTrainedModel = model.eval().to(dtype)
    return made
