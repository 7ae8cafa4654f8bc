"""Tiny GGUF files with random blocks, and a tokenizer that transformers reads."""

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np

from helpers.gguf_blocks import random_blocks
from lookahead.backends.cpu.kernels.gguf.formats import Packing

WIDTH, INNER, HEAD, HEADS, KEY_HEADS, LAYERS = 256, 512, 128, 2, 1, 2
_LETTERS = [chr(code) for code in range(33, 127)]
TOKENS = [*_LETTERS, "Ġ", "th", "Ġth", "<end>"]
_MERGES = ["t h", "Ġ th"]
_INNER_MATRICES = {
    "attn_q": (HEADS * HEAD, WIDTH),
    "attn_k": (KEY_HEADS * HEAD, WIDTH),
    "attn_v": (KEY_HEADS * HEAD, WIDTH),
    "attn_output": (WIDTH, HEADS * HEAD),
    "ffn_gate": (INNER, WIDTH),
    "ffn_up": (INNER, WIDTH),
    "ffn_down": (WIDTH, INNER),
}


def write_tiny_gguf(
    path: Path,
    architecture: str,
    packing: Packing,
    others: Mapping[str, Packing] | None = None,
    *,
    is_tied: bool = True,
    extra: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write a model of random weights.

    Args:
        path: Of the file.
        architecture: llama, qwen2 or qwen3.
        packing: The format of the matrices.
        others: Formats of single matrices, by their name in the file without a suffix.
        is_tied: Whether the embeddings are the output matrix, too.
        extra: Further tensors.
    """
    writer = gguf.GGUFWriter(path, architecture)
    _write_settings(writer)
    seed = iter(range(1000))
    generator = np.random.default_rng(7)

    def add_matrix(name: str, rows: int, width: int) -> None:
        kind = (others or {}).get(name, packing)
        blocks = _small(random_blocks(kind, rows, width, next(seed)), kind)
        writer.add_tensor(f"{name}.weight", blocks, raw_dtype=gguf.GGMLQuantizationType(int(kind)))

    def add_vector(name: str, size: int) -> None:
        writer.add_tensor(name, generator.normal(1.0, 0.1, size).astype(np.float32))

    add_matrix("token_embd", len(TOKENS), WIDTH)
    if not is_tied:
        add_matrix("output", len(TOKENS), WIDTH)
    add_vector("output_norm.weight", WIDTH)
    for layer in range(LAYERS):
        for name, (rows, width) in _INNER_MATRICES.items():
            add_matrix(f"blk.{layer}.{name}", rows, width)
            if architecture == "qwen2" and name in ("attn_q", "attn_k", "attn_v"):
                add_vector(f"blk.{layer}.{name}.bias", rows)
        add_vector(f"blk.{layer}.attn_norm.weight", WIDTH)
        add_vector(f"blk.{layer}.ffn_norm.weight", WIDTH)
        if architecture == "qwen3":
            add_vector(f"blk.{layer}.attn_q_norm.weight", HEAD)
            add_vector(f"blk.{layer}.attn_k_norm.weight", HEAD)
    for name, numbers in (extra or {}).items():
        writer.add_tensor(name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_settings(writer: gguf.GGUFWriter) -> None:
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_key_length(HEAD)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(_MERGES)
    writer.add_eos_token_id(len(TOKENS) - 1)
    writer.add_bos_token_id(len(TOKENS) - 1)


def _small(blocks: np.ndarray, packing: Packing) -> np.ndarray:
    """Return blocks with scales near those of a trained model: else every logit is infinite."""
    generator = np.random.default_rng(len(blocks))
    shaped = blocks.reshape(len(blocks), -1, packing.block.size)
    size = {Packing.Q8_0: 1e-3, Packing.Q6_K: 2e-5, Packing.Q4_K: 2e-4, Packing.Q5_K: 1e-4}.get(packing, 1e-2)
    places = (208,) if packing is Packing.Q6_K else (0,)
    if packing in (Packing.Q4_K, Packing.Q5_K, Packing.Q4_1, Packing.Q5_1):
        places = (0, 2)
    for at in places:
        scales = generator.normal(0, size, (*shaped.shape[:2], 1)).astype(np.float16)
        shaped[:, :, at : at + 2] = scales.view(np.uint8)
    return shaped.reshape(len(blocks), -1)
