"""Dot products are right, and a row's are the same bits whatever other rows are computed."""

import numba
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.cpu_kernels import DTYPES, dots, dots_of_unit, kinds
from lookahead.backends.cpu.kernels import tiles, vectors
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


@given(seeds, dtypes, st.integers(1, 20), st.integers(1, 3))
def test_inputs_may_have_any_row_stride(seed, dtype, rows, stride):
    weights = random_numbers(seed, dtype, 16, 64)
    inputs = random_numbers(seed + 1, dtype, rows, stride * 64)[:, -64:]
    together = dots_of_unit(weights, inputs)
    assert_close(together, weights, inputs)
    assert torch.equal(together, dots_of_unit(weights, inputs.contiguous()))


def test_bfloat16_where_the_processor_does_not_multiply_pairs(monkeypatch):
    monkeypatch.setattr(vectors, "multiplies_pairs", lambda: False)

    @numba.njit  # not cached: it is of another processor
    def in_tiles_of(columns, weights, inputs, width, out):
        rows, given, target = bfloat16_pointer(weights), bfloat16_pointer(inputs), float_pointer(out)
        if columns == 1:
            tiles.dots_16_by_1(rows, width, rows, given, width, width, target, 16)
        elif columns == 2:
            tiles.dots_8_by_2(rows, width, rows, given, width, width, target, 8)
        else:
            tiles.dots_4_by_4(rows, width, rows, given, width, width, target, 4)

    weights = random_numbers(1, torch.bfloat16, 16, 96)
    inputs = random_numbers(2, torch.bfloat16, 4, 96)
    found = []
    for columns in (1, 2, 4):
        out = torch.full((columns, 16 // columns), torch.nan)
        in_tiles_of(columns, weights.data_ptr(), inputs.data_ptr(), 96, out.data_ptr())
        assert_close(out, weights[: 16 // columns], inputs[:columns])
        found.append(out[0, :4])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert not any("dpbf16" in code for code in in_tiles_of.inspect_asm().values())
