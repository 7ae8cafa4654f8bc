"""Dot products are right, and a row's are the same bits whatever other rows are computed."""

import numba
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.cpu_kernels import DTYPES, dots, kinds
from lookahead.backends.cpu.kernels import panels, vectors
from lookahead.backends.cpu.kernels.pointers import bfloat16_pointer, float_pointer
from lookahead.backends.cpu.kernels.products import UNIT

dtypes = st.sampled_from(DTYPES)
ways = st.sampled_from(kinds())
"""Dtypes, in vectors and in tile registers."""
seeds = st.integers(0, 2**32)


def random_numbers(seed: int, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Numbers of many sizes, so that the order of a sum shows in its bits."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(shape, generator=generator)
    return (numbers * torch.randn(shape, generator=generator).exp()).to(dtype)


def assert_close(actual: torch.Tensor, weights: torch.Tensor, inputs: torch.Tensor) -> None:
    exact = inputs.double() @ weights.double().T
    most = inputs.double().abs() @ weights.double().abs().T  # what rounding is relative to
    assert ((actual.double() - exact).abs() <= 1e-6 * most).all()


@pytest.mark.parametrize(("dtype", "uses_tiles"), kinds())
@pytest.mark.parametrize("rows", range(1, 21))
def test_every_count_of_rows(rows, dtype, uses_tiles):
    weights, inputs = random_numbers(rows, dtype, 75, 96), random_numbers(rows + 50, dtype, rows, 96)
    together = dots(weights, inputs, uses_tiles=uses_tiles)
    assert_close(together, weights, inputs)
    for row in range(rows):
        alone = dots(weights, inputs[row : row + 1], uses_tiles=uses_tiles)
        assert torch.equal(alone[0], together[row])


@given(seeds, ways, st.integers(1, 20), st.integers(16, 100), st.integers(1, 6), st.data())
def test_products_of_any_shape(seed, way, rows, outputs, pieces, data):
    dtype, uses_tiles = way
    weights = random_numbers(seed, dtype, outputs, 32 * pieces)
    inputs = random_numbers(seed + 1, dtype, rows, 32 * pieces)
    together = dots(weights, inputs, uses_tiles=uses_tiles)
    assert_close(together, weights, inputs)
    some = sorted(data.draw(st.sets(st.integers(0, rows - 1), min_size=1)))
    assert torch.equal(dots(weights, inputs[some].contiguous(), uses_tiles=uses_tiles), together[some])


@given(seeds, ways, st.integers(1, 9), st.integers(16, 300), st.data())
def test_how_units_are_shared_out_changes_no_bit(seed, way, rows, outputs, data):
    dtype, uses_tiles = way
    weights = random_numbers(seed, dtype, outputs, 64)
    inputs = random_numbers(seed + 1, dtype, rows, 64)
    splits = data.draw(st.lists(st.integers(0, -(-outputs // UNIT)), max_size=5))
    in_parts = dots(weights, inputs, splits, uses_tiles=uses_tiles)
    assert torch.equal(in_parts, dots(weights, inputs, uses_tiles=uses_tiles))


def test_bfloat16_where_the_processor_does_not_multiply_pairs(monkeypatch):
    monkeypatch.setattr(vectors, "multiplies_pairs", lambda: False)

    @numba.njit  # not cached: it is of another processor
    def in_vectors(rows, weights, inputs, width, packed, out):
        given, panel, target = bfloat16_pointer(inputs), float_pointer(packed), float_pointer(out)
        panels.pack_weights(bfloat16_pointer(weights), width, width, panel, 0)
        if rows == 1:
            panels.multiply_1_by_1(given, width, panel, 0, width, target, 16, False)
        else:
            panels.multiply_few_by_1(given, width, panel, 0, width, target, 16, False)

    weights = random_numbers(1, torch.bfloat16, 16, 96)
    inputs = random_numbers(2, torch.bfloat16, panels.FEW, 96)
    found = []
    for rows in (1, panels.FEW):
        packed, out = torch.full((16 * 96,), torch.nan), torch.full((rows, 16), torch.nan)
        in_vectors(rows, weights.data_ptr(), inputs.data_ptr(), 96, packed.data_ptr(), out.data_ptr())
        assert_close(out, weights, inputs[:rows])
        found.append(out[0])
    assert torch.equal(found[0], found[1])
    assert not any("dpbf16" in code for code in in_vectors.inspect_asm().values())
