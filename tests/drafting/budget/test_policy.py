"""The budget: what forwards cost, how many nodes pay, and how that follows what happens."""

import json
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
from lookahead.drafting.budget.policy import BudgetPolicy
from lookahead.drafting.budget.step_times import StepTimes

CPU = times_of(cpu)


def row(*chances):
    return np.array([1.0, *chances])


# Step times


@pytest.mark.parametrize(
    ("size", "seconds"),
    [(1, 0.10), (2, 0.12), (3, 0.14), (4, 0.16), (5, 0.18), (8, 0.24)],  # beyond 4, the last slope
)
def test_times_are_linear_between_the_points_and_beyond_them(size, seconds):
    times = StepTimes((1, 2, 4), (0.10, 0.12, 0.16))
    assert times.seconds_for(size) == pytest.approx(seconds)
    assert times.up_to(size)[-1] == times.seconds_for(size)
    assert len(times.up_to(size)) == size


def test_where_one_size_is_all_that_is_known_no_draft_seems_cheap():
    assert StepTimes((1,), (0.1,)).seconds_for(3) == pytest.approx(0.3)


def test_more_tokens_never_take_less_time():
    times = StepTimes((1, 2, 4, 8, 16), (0.10, 0.14, 0.12, 0.13, 0.20))
    assert times.seconds == pytest.approx((0.10, 0.13, 0.13, 0.13, 0.20))
    assert StepTimes((1, 2), (0.1, 0.1)).seconds == (0.1, 0.1)


@pytest.mark.parametrize(
    ("sizes", "seconds", "message"),
    [
        ((), (), "give ascending sizes from 1"),
        ((2, 4), (0.1, 0.2), "give ascending sizes from 1"),
        ((1, 4, 4), (0.1, 0.2, 0.3), "give ascending sizes from 1"),
        ((1, 2), (0.1,), "as many as seconds"),
        ((1, 2), (0.0, 0.1), "give positive, finite numbers"),
        ((1, 2), (0.1, float("inf")), "give positive, finite numbers"),
        ((1, 2), (0.1, float("nan")), "give positive, finite numbers"),
    ],
)
def test_what_describes_no_times_is_refused(sizes, seconds, message):
    with pytest.raises(ValueError, match=message):
        StepTimes(sizes, seconds)


def test_a_machine_that_slows_down_is_slower_at_sizes_not_in_use():
    times = CPU
    for _ in range(60):
        times = times.observed(1, 2 * cpu(1))
    assert times.seconds_for(1) == pytest.approx(2 * cpu(1), rel=0.01)
    assert times.seconds_for(64) > 1.5 * cpu(64)


def test_a_wrong_shape_is_set_right_by_the_steps_taken():
    times = StepTimes(CPU.sizes, (0.044,) * 3 + (0.090,) * 3 + (0.100,))
    for _ in range(300):
        for size in (1, 5, 16, 30):
            times = times.observed(size, cpu(size))
    for size in (1, 5, 16, 30):
        assert times.seconds_for(size) == pytest.approx(cpu(size), rel=0.02)


def test_a_hiccup_hardly_moves_anything():
    times = CPU.observed(8, 100 * cpu(8))
    assert all(1 <= after / before < 1.07 for before, after in zip(CPU.seconds, times.seconds, strict=True))
    for _ in range(20):
        times = times.observed(8, cpu(8))
    assert times.seconds == pytest.approx(CPU.seconds, rel=0.02)


def test_sizes_beyond_the_grid_are_learned_at_its_end():
    times = CPU
    for _ in range(60):
        times = times.observed(100, 0.3)
    assert times.seconds_for(100) == pytest.approx(0.3, rel=0.02)


@pytest.mark.parametrize("seconds", [-0.1, float("nan")])
def test_a_time_that_is_none_is_refused(seconds):
    with pytest.raises(ValueError, match="give a time that is not negative"):
        CPU.observed(1, seconds)


def test_times_survive_json():
    assert StepTimes.from_dict(json.loads(json.dumps(CPU.as_dict()))) == CPU


@pytest.mark.parametrize(
    "values",
    [
        None,
        [],
        {},
        {"sizes": [1, 2]},
        {"sizes": [1, 2], "seconds": 0.1},
        {"sizes": [1, 2], "seconds": [0.1, "0.2"]},
        {"sizes": [True, 2], "seconds": [0.1, 0.2]},
        {"sizes": [1, 2.5], "seconds": [0.1, 0.2]},
        {"sizes": [1, 2], "seconds": [0.1, None]},
        {"sizes": [1, 10**400], "seconds": [0.1, 0.2]},
        {"sizes": [1, 2], "seconds": [0.1, 10**400]},
        {"sizes": [2, 1], "seconds": [0.1, 0.2]},
    ],
)
def test_what_holds_no_times_is_refused(values):
    with pytest.raises(ValueError, match="is not allowed"):
        StepTimes.from_dict(values)


# The policy


def test_at_first_the_rate_is_that_of_plain_steps():
    policy = BudgetPolicy()
    assert policy.tokens_per_second(policy.init(CPU)) == pytest.approx(1 / cpu(1))


def test_nodes_that_do_not_pay_are_left_out():
    policy = BudgetPolicy()
    state = policy.init(StepTimes((1, 2, 4), (0.10, 0.15, 0.25)))  # a node costs half a plain step
    assert policy.sizes(state, [row(0.9, 0.6, 0.4)]) == (3,)
    assert policy.sizes(state, [row(0.4, 0.3)]) == (1,)
    assert policy.sizes(state, [row()]) == (1,)


def test_a_flat_part_behind_a_step_is_reached_when_it_pays_as_a_whole():
    policy = BudgetPolicy()
    state = policy.init(StepTimes((1, 2, 8), (0.10, 0.19, 0.19)))
    assert policy.sizes(state, [row(0.5, 0.3)]) == (1,)
    assert policy.sizes(state, [row(0.5, 0.3, 0.2)]) == (4,)  # no node pays alone, three do


def test_rows_share_one_size_since_a_forward_is_a_rectangle():
    policy = BudgetPolicy()
    state = policy.init(StepTimes((1, 2), (0.10, 0.11)))  # a node of each row costs a tenth of a plain step
    rows = [row(0.9, 0.8, 0.01), row(), row(0.4, 0.02)]
    assert policy.sizes(state, rows) == (3, 1, 3)
    assert BudgetPolicy(max_nodes=2).sizes(state, rows) == (2, 1, 2)
    assert policy.sizes(state, [row(0.2), row(), row()]) == (1, 1, 1)  # 0.2 tokens for 3 x 0.1
    assert policy.sizes(state, [row(0.2)]) == (2,)


def test_an_unsorted_draft_is_cut_where_its_prefix_gains_most():
    policy = BudgetPolicy()
    state = policy.init(StepTimes((1, 2), (0.10, 0.15)))
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
    policy.adapt(state, nodes=4, tokens=2, step_seconds=0.1)
    assert state == policy.init(CPU)
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
        [
            *((gpu, "repetitive"), (gpu, "mixed"), (cpu, "ordinary"), (cpu, "incompressible")),
            *((stairs, "ordinary"), (stairs, "mixed"), (steep, "repetitive"), (steep, "incompressible")),
        ],
    ),
)
def test_in_the_long_run_no_fixed_size_is_better(curve, name):
    """The sample has two texts with each curve, and two curves with each text."""
    text = TEXTS[name]
    assert rate(Auto(times_of(curve)), text, curve) >= 0.98 * best_fixed_rate(text, curve)


def test_on_mixed_text_every_fixed_size_is_worse():
    assert rate(Auto(CPU), MIXED, cpu) > 1.03 * best_fixed_rate(MIXED, cpu)


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_times_measured_on_a_busier_or_idler_machine_do_not_matter(factor):
    wrong = StepTimes(CPU.sizes, tuple(factor * seconds for seconds in CPU.seconds))
    assert rate(Auto(wrong), MIXED, cpu) >= 0.98 * best_fixed_rate(MIXED, cpu)


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
