"""Packed weights: unpacked to the bits that dequantizing gives, multiplied to the bits that numbers give."""

import ctypes

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.cpu_kernels import DTYPES, dots, kinds
from helpers.gguf_blocks import dequantized, random_blocks, random_matrix
from lookahead.backends.cpu.kernels import vectors
from lookahead.backends.cpu.kernels.gguf import unpacking
from lookahead.backends.cpu.kernels.gguf.formats import Packing
from lookahead.backends.cpu.kernels.gguf.unpacking import UNPACKING_FIELDS, Use

packings = st.sampled_from(list(Packing))
seeds = st.integers(0, 2**32)
PANELS = (Use.FLOAT_PANELS, Use.BFLOAT16_PANELS)
ways = st.sampled_from(kinds())
"""Dtypes, in vectors and in tile registers."""


def unpacked(blocks: np.ndarray, width: int, use: Use, address: int) -> torch.Tensor:
    """Return sixteen rows [16, width], unpacked to a panel."""
    words = np.full(16 * width, np.nan, np.float32)
    scales = np.full(width, np.nan, np.float32)
    arguments = np.zeros(UNPACKING_FIELDS, np.int64)
    given = (blocks.ctypes.data, blocks.shape[1], width, words.ctypes.data, scales.ctypes.data)
    arguments[: len(given)] = given
    ctypes.CFUNCTYPE(None, ctypes.c_int64)(address)(arguments.ctypes.data)
    found = torch.from_numpy(words)
    if use is Use.FLOAT_PANELS:
        return found.view(width, 16).T
    shorts = found.view(torch.bfloat16)[: 16 * width]
    return shorts.view(width // 2, 16, 2).transpose(0, 1).reshape(16, width)


def assert_same_bits(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """As `torch.equal`, but 0 and -0 differ."""
    kind = torch.int32 if expected.dtype == torch.float32 else torch.int16
    assert torch.equal(actual.contiguous().view(kind), expected.contiguous().view(kind))


@given(packings, st.sampled_from(PANELS), st.integers(1, 4), seeds)
def test_unpacked_numbers_are_those_of_dequantizing(packing, use, count, seed):
    width = count * packing.block.numbers
    blocks = random_blocks(packing, 16, width, seed)
    found = unpacked(blocks, width, use, unpacking.unpacking_address(packing, use))
    assert_same_bits(found, dequantized(blocks, packing).to(found.dtype))


@pytest.mark.parametrize("packing", Packing)
def test_processors_without_instructions_for_bfloat16(packing, monkeypatch):
    monkeypatch.setattr(vectors, "multiplies_pairs", lambda: False)
    monkeypatch.setattr(vectors, "has_feature", lambda _name: False)
    monkeypatch.setattr("lookahead.jit._cache_on_disk", lambda *_arguments: None)  # of another processor
    width = 2 * packing.block.numbers
    for use in PANELS:
        compiled = unpacking.unpacker(int(packing), int(use))
        assert "bf16" not in compiled._library.get_asm_str()
        for seed in range(20):
            blocks = random_blocks(packing, 16, width, seed)
            found = unpacked(blocks, width, use, compiled.address)
            assert_same_bits(found, dequantized(blocks, packing).to(found.dtype))


@given(packings, ways, st.integers(1, 80), st.integers(16, 100), st.integers(1, 5), seeds)
def test_products_are_those_of_the_dequantized_matrix(packing, way, rows, outputs, count, seed):
    dtype, uses_tiles = way
    width = count * packing.block.numbers
    matrix, numbers = random_matrix(packing, outputs, width, seed, dtype)
    inputs = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)).to(dtype)
    expected = dots(numbers, inputs, uses_tiles=uses_tiles)
    assert torch.equal(dots(matrix, inputs, uses_tiles=uses_tiles), expected)


@given(packings, ways, st.sampled_from([32, 64, 96]), st.integers(1, 3), st.integers(1, 20), st.data())
def test_heads_whose_halves_take_turns(packing, way, head, heads, rows, data):
    dtype, uses_tiles = way
    width, seed = packing.block.numbers, data.draw(seeds)
    matrix, numbers = random_matrix(packing, head * heads, width, seed, dtype, head)
    inputs = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)).to(dtype)
    splits = data.draw(st.lists(st.integers(0, head * heads // 16), max_size=5))
    expected = dots(numbers, inputs, uses_tiles=uses_tiles)
    assert torch.equal(dots(matrix, inputs, splits, uses_tiles=uses_tiles), expected)


@pytest.mark.parametrize(("dtype", "uses_tiles"), kinds())
@pytest.mark.parametrize("packing", Packing)
def test_wide_matrices_are_unpacked_in_parts(packing, dtype, uses_tiles):
    width = 1536
    matrix, numbers = random_matrix(packing, 40, width, 5, dtype)
    inputs = torch.randn(70, width, generator=torch.Generator().manual_seed(6)).to(dtype)
    for rows in (1, 16, 17, 33, 49, 64, 65, 70):
        expected = dots(numbers, inputs[:rows], uses_tiles=uses_tiles)
        assert torch.equal(dots(matrix, inputs[:rows], uses_tiles=uses_tiles), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_a_matrix_cannot_be(dtype):
    matrix, _ = random_matrix(Packing.Q4_0, 64, 64, 1, dtype)
    assert not matrix.unsupported_reason()
    wrong = type(matrix)(matrix.blocks, Packing.Q8_0, 64, dtype)
    assert "not those of Q8_0" in wrong.unsupported_reason()
    wrong = type(matrix)(matrix.blocks, Packing.Q4_0, 64, dtype, interleaved=48)
    assert "heads of 48 rows" in wrong.unsupported_reason()


@given(packings, st.sampled_from(DTYPES), st.integers(1, 50), st.integers(1, 3), seeds)
def test_a_matrix_as_numbers(packing, dtype, outputs, count, seed):
    matrix, numbers = random_matrix(packing, outputs, count * packing.block.numbers, seed, dtype)
    assert_same_bits(matrix.numbers(), numbers)


def test_a_matrix_of_interleaved_heads_as_numbers():
    matrix, numbers = random_matrix(Packing.Q4_1, 192, 64, 3, torch.bfloat16, 64)
    assert_same_bits(matrix.numbers(), numbers)
