"""The budget: what forwards cost, how many nodes pay, and how that follows what happens."""

from dataclasses import FrozenInstanceError
from functools import cache
from itertools import pairwise, product

import numpy as np
import pytest

from helpers.samples import sampled
from helpers.simulated_decoding import (
    INCOMPRESSIBLE,
    MIXED,
    ORDINARY,
    REPETITIVE,
    Auto,
    Fixed,
    Text,
    cpu,
    gpu,
    rate,
    stairs,
    steep,
    times_of,
)
from helpers.step_times import known_times
from lookahead.drafting.budget.policy import BudgetPolicy
from lookahead.drafting.budget.step_times import StepTimes

CPU = times_of(cpu)


def row(*chances):
    return np.array([1.0, *chances])


# The policy


def test_at_first_the_rate_is_that_of_plain_steps():
    policy = BudgetPolicy()
    assert policy.tokens_per_second(policy.init(CPU)) == pytest.approx(1 / cpu(1))


def test_nodes_that_do_not_pay_are_left_out():
    policy = BudgetPolicy()
    state = policy.init(known_times((1, 2, 4), (0.10, 0.15, 0.25)))  # a node costs half a plain step
    assert policy.sizes(state, [row(0.9, 0.6, 0.4)]) == (3,)
    assert policy.sizes(state, [row(0.4, 0.3)]) == (1,)
    assert policy.sizes(state, [row()]) == (1,)


def test_a_flat_part_behind_a_step_is_reached_when_it_pays_as_a_whole():
    policy = BudgetPolicy()
    state = policy.init(known_times((1, 2, 8), (0.10, 0.19, 0.19)))
    assert policy.sizes(state, [row(0.5, 0.3)]) == (1,)
    assert policy.sizes(state, [row(0.5, 0.3, 0.2)]) == (4,)  # no node pays alone, three do


def test_rows_share_one_size_since_a_forward_is_a_rectangle():
    policy = BudgetPolicy()
    state = policy.init(known_times((1, 2), (0.10, 0.11)))  # a node of each row costs a tenth of a plain step
    rows = [row(0.9, 0.8, 0.01), row(), row(0.4, 0.02)]
    assert policy.sizes(state, rows) == (3, 1, 3)
    assert BudgetPolicy(max_nodes=2).sizes(state, rows) == (2, 1, 2)
    assert policy.sizes(state, [row(0.2), row(), row()]) == (1, 1, 1)  # 0.2 tokens for 3 x 0.1
    assert policy.sizes(state, [row(0.2)]) == (2,)


def test_an_unsorted_draft_is_cut_where_its_prefix_gains_most():
    policy = BudgetPolicy()
    state = policy.init(known_times((1, 2), (0.10, 0.15)))
    assert policy.sizes(state, [row(0.8, 0.3, 0.9, 0.2)]) == (4,)
    assert policy.sizes(state, [row(0.8, 0.3, 0.6, 0.2)]) == (2,)


def test_the_rate_stays_within_what_is_plausible():
    policy = BudgetPolicy(max_nodes=8)
    state = policy.init(CPU)
    for _ in range(200):  # drafts that were promised to be right and never are
        state = policy.adapt(state, nodes=64, tokens=1, step_seconds=cpu(64))
    assert policy.tokens_per_second(state) >= 1 / state.times.seconds_for(1)
    for _ in range(200):
        state = policy.adapt(state, nodes=8, tokens=800, step_seconds=cpu(8))
    assert policy.tokens_per_second(state) <= 8 / state.times.seconds_for(8) * 1.001
    assert policy.tokens_per_second(state, rows=9) <= 9 * 8 / state.times.seconds_for(8) * 1.001


def test_time_spent_outside_the_forward_makes_larger_drafts_pay():
    policy = BudgetPolicy()
    quick = slow = policy.init(CPU)
    for _ in range(100):
        quick = policy.adapt(quick, nodes=8, tokens=3, step_seconds=cpu(8))
        slow = policy.adapt(slow, nodes=8, tokens=3, step_seconds=cpu(8), other_seconds=cpu(8))
    assert policy.tokens_per_second(slow) == pytest.approx(policy.tokens_per_second(quick) / 2, rel=0.05)
    draft = [np.linspace(1, 0, 64)]
    assert policy.sizes(slow, draft) > policy.sizes(quick, draft)


def test_a_pause_between_two_steps_hardly_moves_the_rate():
    policy = BudgetPolicy()
    state = policy.adapt(policy.init(CPU), nodes=1, tokens=1, step_seconds=cpu(1), other_seconds=60.0)
    assert state.mean_seconds < 1.1 * cpu(1)


def test_a_state_is_never_changed():
    policy = BudgetPolicy()
    state = policy.init(CPU)
    held, seconds = CPU.state.copy(), CPU.seconds
    policy.adapt(state, nodes=4, tokens=2, step_seconds=0.1)
    assert (state, CPU.seconds) == (policy.init(CPU), seconds)
    np.testing.assert_array_equal(CPU.state, held)
    with pytest.raises(FrozenInstanceError):
        state.mean_tokens = 2.0


@pytest.mark.parametrize("settings", [{"max_nodes": 0}, {"memory_steps": 0}])
def test_a_policy_without_nodes_or_memory_is_refused(settings):
    with pytest.raises(ValueError, match="at least 1"):
        BudgetPolicy(**settings)


# The policy in the long run


TEXTS = {
    "repetitive": REPETITIVE,
    "ordinary": ORDINARY,
    "incompressible": INCOMPRESSIBLE,
    "mixed": MIXED,
}


@cache
def best_fixed_rate(text, curve):
    return max(rate(Fixed(size), text, curve) for size in (1, 2, 4, 8, 12, 16, 24, 32, 48, 64))


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("curve", "name"),
    sampled(
        product([gpu, cpu, stairs, steep], TEXTS),
        [(gpu, "mixed"), (cpu, "ordinary")],
    ),
)
def test_in_the_long_run_no_fixed_size_is_better(curve, name):
    """This sample and the next one have each curve and each text."""
    text = TEXTS[name]
    assert rate(Auto(times_of(curve)), text, curve) >= 0.98 * best_fixed_rate(text, curve)


def test_on_mixed_text_every_fixed_size_is_worse():
    assert rate(Auto(CPU), MIXED, cpu) > 1.03 * best_fixed_rate(MIXED, cpu)


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_times_of_a_busier_or_idler_machine_do_not_matter(factor):
    wrong = known_times(CPU.grid.sizes, [factor * seconds for seconds in CPU.seconds])
    assert rate(Auto(wrong), MIXED, cpu) >= 0.98 * best_fixed_rate(MIXED, cpu)


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("curve", "name"),
    sampled(
        product([gpu, cpu, stairs, steep], TEXTS),
        [(stairs, "repetitive"), (steep, "incompressible")],
    ),
)
def test_a_prior_that_knows_nothing_of_the_processor_is_soon_set_right(curve, name):
    times, text = StepTimes.of_ridge(64, 16.0), TEXTS[name]
    assert rate(Auto(times), text, curve) >= 0.96 * best_fixed_rate(text, curve)


def test_without_any_step_observed_the_first_one_is_plain():
    policy = BudgetPolicy()
    state = policy.init(StepTimes.of_ridge(64, 16.0))
    certain = np.ones(64)
    assert policy.sizes(state, [certain, certain]) == (1, 1)
    assert policy.ragged_sizes(state, [certain, certain]) == (1, 1)
    state = policy.adapt(state, nodes=1, tokens=1, step_seconds=0.02)
    assert state.mean_seconds == pytest.approx(0.02, rel=0.01)
    assert policy.sizes(state, [certain])[0] > 16


def test_a_plain_step_now_and_then_tells_what_one_takes():
    """Where every step drafts, how long a plain step takes is forgotten, and found out again."""
    policy, auto = BudgetPolicy(), Auto(CPU)
    for _ in range(1000):
        size = auto.choose(np.ones(32))
        auto.learn(size, size, cpu(size))
    assert 2 <= auto.chosen.count(1) <= 20
    assert policy.sizes(auto.state, [np.ones(32)]) == (32,) or auto.chosen[-1] == 1


def test_drafting_stops_where_nothing_repeats_and_is_taken_up_again():
    hopeless = Text(((400, ((0.0, 0.0),)),))
    alternating = Text((*REPETITIVE.parts, *hopeless.parts, *REPETITIVE.parts))
    auto = Auto(CPU)
    rate(auto, alternating, cpu, tokens=1200)
    begins, ends = auto.chosen.index(1), len(auto.chosen) - auto.chosen[::-1].index(1)
    assert np.mean(auto.chosen[:begins]) > 8
    assert set(auto.chosen[begins:ends]) == {1}
    assert np.mean(auto.chosen[ends:]) > 8


def test_sizes_fall_as_the_rate_rises():
    policy = BudgetPolicy()
    state = policy.init(CPU)
    draft, sizes = [0.85 ** np.arange(64)], []
    for _ in range(200):
        sizes.append(policy.sizes(state, draft))
        state = policy.adapt(state, nodes=16, tokens=9, step_seconds=cpu(16))
    assert all(before >= after for before, after in pairwise(sizes))
    assert sizes[-1] < sizes[0]
