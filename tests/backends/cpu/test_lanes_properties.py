"""What attention in tile registers does in vectors: its lanes are queries, and each lane is by itself."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.cpu_kernels import DTYPES
from helpers.cpu_lanes import (
    add_scaled,
    are_finite,
    copy_of_row,
    copy_of_some_lanes,
    scale_in_lanes,
    softmax_in_lanes,
    transposed_lanes,
    transposed_values,
)
from lookahead.backends.cpu.kernels.attention.blocks import BLOCK, MASKED_SCORE
from lookahead.backends.cpu.kernels.vectors import LANES

seeds = st.integers(0, 2**32)
widths = st.integers(1, 5).map(lambda count: 32 * count)
sizes = st.integers(1, 9).map(lambda count: 16 * count)
one_at_least = st.tuples(st.integers(0, BLOCK - 1), st.integers(1, BLOCK)).filter(
    lambda pair: pair[0] < pair[1]
)
ALL = torch.tensor([[0] * LANES, [BLOCK] * LANES])


def numbers_of(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def softmaxes(draw):
    """Scores [64, 16], the bounds of each lane, tops and sums of earlier blocks or none."""
    seed = draw(seeds)
    scores = draw(st.sampled_from([1.0, 20.0, 300.0])) * numbers_of(seed, BLOCK, LANES)
    generator = torch.Generator().manual_seed(seed + 1)
    bounds = torch.randint(0, BLOCK + 1, (2, LANES), generator=generator).sort(dim=0).values.contiguous()
    if draw(st.booleans()):
        bounds = ALL.clone()
    is_first = torch.rand(LANES, generator=generator) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    tops = 50 * numbers_of(seed + 2, LANES)
    sums = torch.rand(LANES, generator=generator) + 1
    return scores, bounds, tops.masked_fill(is_first, MASKED_SCORE), sums.masked_fill(is_first, 0.0)


def naive_softmax_in_lanes(scores, bounds, scale, tops, sums):
    """The same in double precision, key by key: weights are powers of two."""
    keys = np.arange(BLOCK)[:, None]
    sees = (keys >= bounds[0].numpy()) & (keys < bounds[1].numpy())
    scaled = np.where(sees, scores.double().numpy() * scale, -np.inf)
    after = np.maximum(scaled.max(0), tops.double().numpy())
    weights = np.where(scaled - after < -125, 0.0, np.exp2(scaled - after))
    decays = np.exp2(np.maximum(tops.double().numpy() - after, -2000.0))
    return weights, decays, after, sums.double().numpy() * decays + weights.sum(0)


@given(softmaxes(), st.sampled_from([1.0, 0.125, 0.2]))
def test_softmax_against_powers_of_two_in_double_precision(given_scores, scale):
    scores, bounds, tops, sums = given_scores
    scale = float(np.float32(scale))
    expected, decays, after, total = naive_softmax_in_lanes(scores, bounds, scale, tops, sums)
    weights, found, decay = softmax_in_lanes(scores, bounds, scale, tops, sums)
    # A score's rounding is amplified by the power, relative to the scores' own size.
    assert np.allclose(weights.double(), expected, rtol=2**-8 + 2e-4, atol=1e-37)
    assert np.allclose(found.double(), decays, rtol=2e-4, atol=1e-37)
    assert np.allclose(tops.double(), after, rtol=1e-6)
    assert np.allclose(sums.double(), total, rtol=2e-4)
    assert decay == bool((found != 1).any())


@given(softmaxes(), st.permutations(range(LANES)))
def test_a_lane_does_not_depend_on_the_others(given_scores, order):
    scores, bounds, tops, sums = given_scores
    moved = [part[..., order].contiguous() for part in given_scores]
    results = softmax_in_lanes(scores, bounds, 0.5, tops, sums)
    others = softmax_in_lanes(moved[0], moved[1], 0.5, *moved[2:])
    for one, other in zip((*results[:2], tops, sums), (*others[:2], *moved[2:]), strict=True):
        assert torch.equal(one[..., order], other)
    assert results[2] == others[2]


@given(softmaxes(), seeds)
def test_scores_of_keys_that_a_lane_does_not_see_may_be_anything(given_scores, seed):
    scores, bounds, tops, sums = given_scores
    same_tops, same_sums = tops.clone(), sums.clone()
    keys = torch.arange(BLOCK)[:, None]
    hidden = (keys < bounds[0]) | (keys >= bounds[1])
    chosen = torch.randint(0, 4, scores.shape, generator=torch.Generator().manual_seed(seed))
    spoilt = torch.where(hidden, torch.tensor([torch.nan, torch.inf, -torch.inf, 3e38])[chosen], scores)
    results = softmax_in_lanes(scores, bounds, 0.5, tops, sums)
    others = softmax_in_lanes(spoilt, bounds, 0.5, same_tops, same_sums)
    assert torch.equal(results[0], others[0])
    assert torch.equal(results[1], others[1])
    assert torch.equal(tops, same_tops)
    assert torch.equal(sums, same_sums)
    assert not results[0][hidden].any()


@given(softmaxes())
def test_to_see_all_is_to_see_from_the_first_key_to_the_last(given_scores):
    scores, _, tops, sums = given_scores
    same_tops, same_sums = tops.clone(), sums.clone()
    results = softmax_in_lanes(scores, ALL, 0.5, tops, sums)
    others = softmax_in_lanes(scores, torch.zeros_like(ALL), 0.5, same_tops, same_sums, see_all=True)
    for one, other in zip((*results[:2], tops, sums), (*others[:2], same_tops, same_sums), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
@pytest.mark.parametrize("key", [0, 1, 2, 3, 31, 62, 63])
def test_a_score_that_is_no_number_makes_the_sum_of_its_lane_nan(key, number):
    scores, tops, sums = numbers_of(1, BLOCK, LANES), torch.zeros(LANES), torch.ones(LANES)
    scores[key, 5] = number
    weights, _, _ = softmax_in_lanes(scores, ALL, 1.0, tops, sums)
    assert weights[key, 5].isnan()
    assert sums.isnan().nonzero().tolist() == [[5]]
    assert weights.isnan().any(dim=0).nonzero().tolist() == [[5]]


def test_scores_of_minus_infinity_weigh_nothing():
    tops, sums = torch.full((LANES,), MASKED_SCORE), torch.zeros(LANES)
    scores = torch.full((BLOCK, LANES), -torch.inf)
    scores[7, 3] = -3e38
    weights, decays, decay = softmax_in_lanes(scores, ALL, 1.0, tops, sums)
    assert weights.nonzero().tolist() == [[7, 3]]
    assert sums.nonzero().tolist() == [[3]]
    assert sums[3] == 1.0
    assert torch.equal(decays == 1.0, torch.arange(LANES) != 3)
    assert decay


def test_powers_of_two_are_within_three_millionths():
    below = np.concatenate([-np.linspace(0, 125, 80_000), -np.linspace(0, 1e-3, 16_000)]).astype(np.float32)
    found = np.empty_like(below)
    scores = torch.zeros(BLOCK, LANES)
    for begin in range(0, len(below), LANES):  # the decay of a sum whose top was so far below 0
        tops = torch.from_numpy(below[begin : begin + LANES].copy())
        found[begin : begin + LANES] = softmax_in_lanes(scores, ALL, 1.0, tops, torch.ones(LANES))[1]
    exact = np.exp2(below.astype(np.float64))
    assert (np.abs(found - exact) / exact).max() <= 3.2e-6
    assert found[0] == 1.0


@given(seeds, widths)
def test_totals_times_the_factors_of_their_lanes(seed, width):
    totals, factors = numbers_of(seed, width, LANES), numbers_of(seed + 1, LANES)
    out = torch.full((width + 1, LANES), torch.nan)
    scale_in_lanes(totals, factors, out)
    assert torch.equal(out[:-1], totals * factors)
    assert out[-1].isnan().all()
    scale_in_lanes(totals, factors, totals)  # in place
    assert torch.equal(totals, out[:-1])


@given(seeds, widths, st.integers(0, LANES), st.integers(0, LANES))
def test_only_some_lanes_are_copied(seed, width, first, end):
    source, out = numbers_of(seed, width, LANES), numbers_of(seed + 1, width, LANES)
    source[:, :first], source[:, end:] = torch.nan, torch.inf
    expected = out.clone()
    expected[:, first:end] = source[:, first:end]
    copy_of_some_lanes(source, first, end, out)
    assert torch.equal(out, expected)


@given(seeds, sizes)
def test_lanes_become_rows(seed, width):
    totals = numbers_of(seed, width, LANES)
    assert torch.equal(transposed_lanes(totals), totals.T)


@given(seeds, widths, one_at_least)
def test_values_become_columns_and_those_that_no_query_sees_zeros(seed, width, seen):
    first, end = seen
    values = numbers_of(seed, 100, width).bfloat16()
    slots = torch.randint(0, 100, (BLOCK,), generator=torch.Generator().manual_seed(seed))
    expected = torch.zeros(width, BLOCK, dtype=torch.bfloat16)
    expected[:, first:end] = values[slots[first:end]].T
    slots[:first], slots[end:] = 2**60, -(2**60)  # are not looked at
    found = transposed_values(values, slots, first, end)
    groups = slice(first // 32 * 32, -(-end // 32) * 32)  # of 32 keys each; others are not written
    assert torch.equal(found[:, groups].view(torch.int16), expected[:, groups].view(torch.int16))


@given(seeds, st.sampled_from(DTYPES), sizes)
def test_copies_of_rows(seed, dtype, size):
    source = numbers_of(seed, size + 5).to(dtype)
    target = torch.full((size + 5,), torch.nan, dtype=dtype)
    source[3] = torch.inf
    copy_of_row(source, size, target)
    assert torch.equal(target[:size], source[:size])
    assert target[size:].isnan().all()


@given(seeds, sizes, st.floats(-4, 4, width=32), st.floats(-4, 4, width=32))
def test_sums_of_scaled_rows(seed, size, factor, other):
    totals, source = numbers_of(seed, size), numbers_of(seed + 1, size)
    expected = (totals * factor).double() + source.double() * other
    add_scaled(totals, factor, source, other)
    torch.testing.assert_close(totals.double(), expected, rtol=1e-7, atol=1e-44)


@given(seeds, st.sampled_from(DTYPES), sizes, st.data())
def test_rows_with_a_number_that_is_not_finite_are_found(seed, dtype, size, data):
    numbers = torch.full((size + 5,), torch.nan, dtype=dtype)
    numbers[:size] = torch.finfo(dtype).max * numbers_of(seed, size).clamp(-1, 1).to(dtype)
    assert are_finite(numbers, size)
    place = data.draw(st.integers(0, size - 1))
    numbers[place] = data.draw(st.sampled_from([torch.nan, -torch.nan, torch.inf, -torch.inf]))
    assert not are_finite(numbers, size)
