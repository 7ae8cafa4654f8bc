"""The budget of a foreign engine: T is learned, and no draft is made that does not pay."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookahead.drafting.budget.linear import LinearBudget, StepSeconds

A, B, C = 0.040, 0.002, 0.010


def seconds_of(tokens, *, is_drafted, c=C):
    return A + B * tokens + c * is_drafted


def taught(*, c=C, steps=60, noise=0.0, rows=8):
    """A budget after prompts, plain steps and steps with drafts."""
    budget, random = LinearBudget(), np.random.default_rng(0)
    for step in range(steps):
        is_prompt, is_drafted = step % 10 == 0, step % 3 == 1
        tokens = 400 + step if is_prompt else rows + 7 * is_drafted
        is_drafted = is_drafted and not is_prompt
        seconds = seconds_of(tokens, is_drafted=is_drafted, c=c) * (1 + noise * random.standard_normal())
        emitted = None if is_prompt else rows
        budget.observe(tokens, seconds, is_drafted=is_drafted, emitted=emitted, other_seconds=0.0)
    return budget


def test_the_coefficients_are_found():
    found = taught().times.coefficients
    assert found == pytest.approx([A, B, C], rel=0.05)
    assert taught(noise=0.05).times.coefficients == pytest.approx([A, B, C], rel=0.4)


def test_nothing_is_drafted_before_anything_is_known():
    assert LinearBudget().sizes(1, [np.array([0.9, 0.8])]) == [0]
    assert taught().sizes(8, []) == []
    assert taught().sizes(8, [np.zeros(0)]) == [0]


def test_long_prompts_whose_tokens_cost_less_do_not_make_drafts_look_cheap():
    budget = LinearBudget()
    for step in range(200):
        is_prompt, drafted = step % 20 == 0, step % 2 * (1 + step % 7)
        tokens, seconds = (400, A + 400 * B / 8) if is_prompt else (1 + drafted, A + B * (1 + drafted))
        emitted = None if is_prompt else 1
        budget.observe(tokens, seconds, is_drafted=drafted > 0, emitted=emitted, other_seconds=0.0)
    a, b, c = budget.times.coefficients
    assert a + 8 * b + c == pytest.approx(A + 8 * B, rel=0.02)
    assert b > 0.6 * B


def test_a_first_step_gives_a_prior():
    times = StepSeconds()
    times.observe(64, 0.2, is_drafted=False)
    assert times.seconds(1, is_drafted=False) == pytest.approx(0.1, rel=0.05)
    assert times.seconds(64, is_drafted=False) == pytest.approx(0.2, rel=0.05)


def brute_force(budget, rows, drafts):
    """The best prefixes of all rows, by trying all of them."""
    rate = budget.tokens_per_second(rows)
    _, per_token, per_draft = budget.times.coefficients

    def gain(sizes):
        tokens = sum(sizes)
        yields = sum(float(draft[:size].sum()) for size, draft in zip(sizes, drafts, strict=True))
        return yields - rate * (per_token * tokens + per_draft * (tokens > 0))

    return max(gain(sizes) for sizes in itertools.product(*(range(len(draft) + 1) for draft in drafts))), gain


CHAINS = st.lists(st.lists(st.floats(0.01, 1), max_size=4), min_size=1, max_size=3)


@given(chains=CHAINS, extra_rows=st.integers(0, 6), c=st.sampled_from([0.0, 0.005, 0.05]))
def test_the_sizes_are_the_best_there_are(chains, extra_rows, c):
    budget = taught(c=c)
    drafts = [np.cumprod(chain) for chain in chains]
    rows = len(drafts) + extra_rows
    best, gain = brute_force(budget, rows, drafts)
    assert gain(budget.sizes(rows, drafts)) == pytest.approx(best, abs=1e-9)


def test_what_any_draft_costs_keeps_single_tokens_from_being_drafted():
    one = [np.array([0.5])]
    assert taught(c=0.0).sizes(8, one) == [1]
    assert taught(c=0.05).sizes(8, one) == [0]
    assert taught(c=0.02).sizes(8, [np.array([0.9])] * 8) == [1] * 8  # all rows share it


def test_a_wrong_cost_of_drafts_does_not_stay_for_ever():
    budget = taught(c=0.05)
    draft = [np.array([0.9])]
    assert budget.sizes(8, draft) == [0]
    steps = 0
    while budget.sizes(8, draft) == [0] and steps < 10_000:
        budget.observe(8, seconds_of(8, is_drafted=False), is_drafted=False, emitted=8, other_seconds=0.0)
        steps += 1
    assert 100 < steps < 10_000  # rarely tried, but tried


def test_one_pause_of_the_machine_changes_little():
    budget = taught()
    before = budget.times.coefficients
    budget.observe(8, 10.0, is_drafted=False, emitted=8, other_seconds=5.0)
    assert budget.times.coefficients[0] < 1.5 * before[0]
    for _ in range(100):
        budget.observe(8, seconds_of(8, is_drafted=False), is_drafted=False, emitted=8, other_seconds=0.0)
    assert budget.times.seconds(8, is_drafted=False) == pytest.approx(
        seconds_of(8, is_drafted=False), rel=0.02
    )


@given(
    steps=st.lists(
        st.tuples(st.integers(1, 2048), st.floats(1e-5, 10), st.booleans()), min_size=1, max_size=40
    )
)
def test_whatever_was_measured_the_coefficients_are_finite_and_not_negative(steps):
    budget = LinearBudget()
    for tokens, seconds, is_drafted in steps:
        budget.observe(tokens, seconds, is_drafted=is_drafted, emitted=1, other_seconds=0.0)
        assert np.isfinite(budget.times.coefficients).all()
        assert min(budget.times.coefficients) >= 0
        assert np.isfinite(budget.tokens_per_second(3))
