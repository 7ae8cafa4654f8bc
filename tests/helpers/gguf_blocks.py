"""Random weights in the formats of GGUF files, and what the `gguf` package's dequantizing makes of them."""

import gguf
import numpy as np
import torch

from lookahead.backends.cpu.kernels.gguf.formats import Packing
from lookahead.backends.cpu.packed import PackedMatrix

_SCALES_AT = {Packing.Q6_K: (208,)}
_TWO_SCALES = (Packing.Q4_1, Packing.Q5_1, Packing.Q4_K, Packing.Q5_K)


def random_blocks(packing: Packing, rows: int, width: int, seed: int) -> np.ndarray:
    """Return uint8 [rows, bytes of a row]: any bytes, but finite scales of many sizes and both signs.

    The package cannot quantize to all formats, so no numbers are quantized here.
    """
    generator = np.random.default_rng(seed)
    count = width // packing.block.numbers
    blocks = generator.integers(0, 256, (rows, count, packing.block.size), dtype=np.uint8)
    for at in _SCALES_AT.get(packing, (0, 2) if packing in _TWO_SCALES else (0,)):
        scales = generator.standard_normal((rows, count, 1)) * np.exp(
            generator.normal(-4, 3, (rows, count, 1))
        )
        scales[generator.random(scales.shape) < 0.05] = 0.0
        blocks[:, :, at : at + 2] = np.clip(scales, -100, 100).astype(np.float16).view(np.uint8)
    return blocks.reshape(rows, -1)


def dequantized(blocks: np.ndarray, packing: Packing) -> torch.Tensor:
    """Return the float32 numbers of blocks as the `gguf` package computes them."""
    return torch.from_numpy(gguf.dequantize(blocks, gguf.GGMLQuantizationType(int(packing))))


def random_matrix(
    packing: Packing, outputs: int, width: int, seed: int, dtype: torch.dtype, head: int = 0
) -> tuple[PackedMatrix, torch.Tensor]:
    """Return a packed matrix and the same weights as numbers, heads of Llama in transformers' order."""
    blocks = random_blocks(packing, outputs, width, seed)
    numbers = dequantized(blocks, packing)
    if head:
        numbers = numbers.view(-1, head // 2, 2, width).transpose(1, 2).reshape(outputs, width)
    matrix = PackedMatrix(torch.from_numpy(blocks), packing, width, dtype, head)
    return matrix, numbers.to(dtype).contiguous()
