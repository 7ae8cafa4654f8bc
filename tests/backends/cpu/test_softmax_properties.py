"""The online softmax over a block of keys, the sums of weighted values, and their exponential function."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.cpu_kernels import DTYPES, accumulate_values, exponentials, scores_of, softmax
from lookahead.backends.cpu.kernels.attention.blocks import BLOCK, MASKED_SCORE
from oracles.cpu_oracle import naive_softmax

dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 2**32)
bounds = st.tuples(st.integers(0, BLOCK), st.integers(0, BLOCK)).map(lambda pair: tuple(sorted(pair)))
one_at_least = bounds.filter(lambda pair: pair[0] < pair[1])
scores = st.lists(st.floats(-300, 300, width=32), min_size=BLOCK, max_size=BLOCK)


def exponentials_of(numbers):
    numbers = np.asarray(numbers, np.float32)
    out = np.empty_like(numbers)
    exponentials(numbers, out)
    return out


def test_the_exponential_function_is_within_two_units_in_the_last_place():
    numbers = np.concatenate([np.linspace(-87, 88, 200_001), np.linspace(-1e-3, 1e-3, 2001)])
    numbers = numbers.astype(np.float32)
    exact = np.exp(numbers.astype(np.float64))
    units = np.spacing(exact.astype(np.float32)).astype(np.float64)
    assert (np.abs(exponentials_of(numbers) - exact) / units).max() <= 2.0


def test_the_exponential_function_has_the_range_of_floats():
    lowest = exponentials_of([-87.3365, -87.34, -104.0, -200.0, MASKED_SCORE, -np.inf])
    assert np.finfo(np.float32).tiny <= lowest[0] < 1.2e-38
    assert not lowest[1:].any()
    numbers = np.linspace(88, 88.7228, 10_001).astype(np.float32)
    assert np.allclose(exponentials_of(numbers), np.exp(numbers.astype(np.float64)), rtol=2e-6)
    highest = exponentials_of([88.7229, 104.0, 1000.0, np.finfo(np.float32).max, np.inf])
    assert np.isposinf(highest).all()
    assert exponentials_of([0.0]) == 1.0
    assert np.isnan(exponentials_of([np.nan, -np.nan])).all()


@given(
    scores, bounds, st.sampled_from([1.0, 0.5, 0.125, 0.0883]), st.floats(-50, 50, width=32), st.booleans()
)
def test_softmax_against_the_naive_online_softmax(given_scores, seen, scale, largest, is_first):
    first, end = seen
    state = torch.tensor([MASKED_SCORE, 0.0] if is_first else [largest, 1.5])
    weights = torch.tensor(given_scores)
    expected, decay, (top, total) = naive_softmax(
        weights.tolist(), first, end, float(np.float32(scale)), tuple(state.tolist())
    )
    returned = softmax(weights, first, end, scale, state)
    # A score's rounding is amplified by the exponential function, relative to the scores' own size.
    allowed = {"rel_tol": 2e-4, "abs_tol": 1e-30}
    assert all(math.isclose(*pair, **allowed) for pair in zip(weights.tolist(), expected, strict=True))
    assert math.isclose(returned, decay, **allowed)
    assert math.isclose(state[0], top, rel_tol=1e-6)
    assert math.isclose(state[1], total, **allowed)


@given(scores, bounds)
def test_scores_of_keys_that_are_not_seen_may_be_anything(given_scores, seen):
    first, end = seen
    weights, state = torch.tensor(given_scores), torch.tensor([1.0, 2.0])
    others, same_state = weights.clone(), state.clone()
    others[:first], others[end:] = torch.nan, torch.inf
    decay = softmax(weights, first, end, 0.5, state)
    assert softmax(others, first, end, 0.5, same_state) == decay
    assert torch.equal(weights, others)
    assert torch.equal(state, same_state)
    assert not weights[:first].any()
    assert not weights[end:].any()


@pytest.mark.parametrize("state", [[MASKED_SCORE, 0.0], [3.0, 2.5]])
@pytest.mark.parametrize("first", [0, 17, 64, 200])
def test_a_block_without_a_visible_key_changes_nothing(state, first):
    weights, kept = torch.full((BLOCK,), 500.0), torch.tensor(state)
    assert softmax(weights, first, min(first, BLOCK), 1.0, kept) == 1.0
    assert kept.tolist() == torch.tensor(state).tolist()
    assert not weights.any()


def test_scores_far_apart():
    weights, state = torch.full((BLOCK,), -1e4), torch.tensor([MASKED_SCORE, 0.0])
    weights[5] = 1e4
    softmax(weights, 0, BLOCK, 1.0, state)
    assert weights[5] == 1.0
    assert state.tolist() == [1e4, pytest.approx(1.0)]
    lower = torch.full((BLOCK,), -1e4)
    assert softmax(lower, 0, BLOCK, 1.0, state) == 1.0
    assert state[1] == pytest.approx(1.0)


@given(scores, bounds)
def test_weights_are_rounded_to_the_type_of_the_values(given_scores, seen):
    exact, state = torch.tensor(given_scores), torch.tensor([MASKED_SCORE, 0.0])
    rounded, same_state = exact.clone(), state.clone()
    assert softmax(exact, *seen, 0.5, state) == softmax(rounded, *seen, 0.5, same_state, torch.bfloat16)
    assert torch.equal(rounded, exact.bfloat16().float())
    assert torch.equal(state, same_state)


@given(seeds, dtypes, one_at_least, st.sampled_from([32, 64, 96]), st.booleans())
def test_scores_against_a_product_of_matrices(seed, dtype, seen, width, by_slots):
    first, end = seen
    generator = torch.Generator().manual_seed(seed)
    slots = torch.randint(0, 100, (BLOCK,), generator=generator) if by_slots else torch.arange(BLOCK)
    keys = torch.randn(100, width, generator=generator).to(dtype)
    queries = torch.randn(4, width, generator=generator).to(dtype)
    expected = queries.double() @ keys[slots].double().T
    together = scores_of(queries, keys, seen, slots)
    assert torch.allclose(together[:, first:end].double(), expected[:, first:end], rtol=1e-5, atol=1e-4)
    for query in range(4):
        alone = scores_of(queries[query : query + 1], keys, seen, slots)
        assert torch.equal(alone[0, first:end], together[query, first:end])


@given(seeds, dtypes, one_at_least, st.sampled_from([(32, 32), (64, 32), (96, 32), (64, 64), (128, 64)]))
def test_weighted_values_against_a_product_of_matrices(seed, dtype, seen, sizes):
    first, end = seen
    width, parts = sizes
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(BLOCK, width, generator=generator).to(dtype)
    values[:first], values[end:] = torch.nan, torch.nan  # is not looked at
    weights = torch.rand(4, BLOCK, generator=generator).to(dtype).float()
    weights[:, :first], weights[:, end:] = 0.0, 0.0
    decays, totals = torch.rand(4, generator=generator), torch.randn(4, parts, generator=generator)
    shown = values[first:end, :parts].double()
    expected = totals.double() * decays.double()[:, None] + weights[:, first:end].double() @ shown
    together = accumulate_values(weights, values, seen, decays, totals)
    assert torch.allclose(together.double(), expected, rtol=1e-5, atol=1e-5)
    for query in range(4):
        row = slice(query, query + 1)
        alone = accumulate_values(
            weights[row].contiguous(), values, seen, decays[row].clone(), totals[row].clone()
        )
        assert torch.equal(alone[0], together[query])


@given(seeds, dtypes, one_at_least)
def test_values_by_slots_are_the_rows_in_those_slots(seed, dtype, seen):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(100, 32, generator=generator).to(dtype)
    slots = torch.randint(0, 100, (BLOCK,), generator=generator)
    weights, decays = torch.rand(1, BLOCK, generator=generator), torch.rand(1, generator=generator)
    weights = weights.to(dtype).float()
    totals = torch.randn(1, 32, generator=generator)
    by_slots = accumulate_values(weights, values, seen, decays, totals, slots)
    assert torch.equal(by_slots, accumulate_values(weights, values[slots].contiguous(), seen, decays, totals))
