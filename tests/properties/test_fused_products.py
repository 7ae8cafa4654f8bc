"""Dot products are right, and a row's are the same bits whatever rows are computed beside it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fused_kernels import DTYPES, dots, dots_of_unit
from lookahead.decoding.fused.products import UNIT

dtypes = st.sampled_from(DTYPES)
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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", range(1, 21))
def test_every_count_of_rows(rows, dtype):
    weights, inputs = random_numbers(rows, dtype, 75, 96), random_numbers(rows + 50, dtype, rows, 96)
    together = dots(weights, inputs)
    assert_close(together, weights, inputs)
    for row in range(rows):
        assert torch.equal(dots(weights, inputs[row : row + 1])[0], together[row])


@given(seeds, dtypes, st.integers(1, 20), st.integers(16, 100), st.integers(1, 6), st.data())
def test_products_of_any_shape(seed, dtype, rows, outputs, pieces, data):
    weights = random_numbers(seed, dtype, outputs, 32 * pieces)
    inputs = random_numbers(seed + 1, dtype, rows, 32 * pieces)
    together = dots(weights, inputs)
    assert_close(together, weights, inputs)
    some = sorted(data.draw(st.sets(st.integers(0, rows - 1), min_size=1)))
    assert torch.equal(dots(weights, inputs[some].contiguous()), together[some])


@given(seeds, dtypes, st.integers(1, 9), st.integers(16, 300), st.data())
def test_how_units_are_shared_out_changes_no_bit(seed, dtype, rows, outputs, data):
    weights = random_numbers(seed, dtype, outputs, 64)
    inputs = random_numbers(seed + 1, dtype, rows, 64)
    splits = data.draw(st.lists(st.integers(0, -(-outputs // UNIT)), max_size=5))
    assert torch.equal(dots(weights, inputs, splits), dots(weights, inputs))


@given(seeds, dtypes, st.integers(1, 20), st.integers(1, 3))
def test_rows_of_inputs_may_lie_apart(seed, dtype, rows, apart):
    weights = random_numbers(seed, dtype, 16, 64)
    inputs = random_numbers(seed + 1, dtype, rows, apart * 64)[:, -64:]
    together = dots_of_unit(weights, inputs)
    assert_close(together, weights, inputs)
    assert torch.equal(together, dots_of_unit(weights, inputs.contiguous()))
