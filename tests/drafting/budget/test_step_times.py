"""Step times: what is believed before the first step, and what each step teaches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.simulated_decoding import cpu, gpu, steep, times_of
from helpers.step_times import known_times
from lookahead.drafting.budget.step_times import Grid, StepTimes, never_descending
from lookahead.drafting.budget.step_times_table import StepTimesTable, context_bucket, rows_bucket

CPU = times_of(cpu)
SIZES = (1, 2, 4, 8, 16, 32, 64)


@pytest.mark.parametrize(
    ("size", "seconds"),
    [(1, 0.10), (2, 0.12), (3, 0.14), (4, 0.16), (5, 0.18), (8, 0.24)],  # beyond 4, the last slope
)
def test_times_are_linear_between_the_points_and_beyond_them(size, seconds):
    times = known_times((1, 2, 4), (0.10, 0.12, 0.16))
    assert times.seconds_for(size) == pytest.approx(seconds)
    assert times.up_to(size)[-1] == times.seconds_for(size)
    assert len(times.up_to(size)) == size


def test_where_one_size_is_all_that_is_known_no_draft_seems_cheap():
    assert known_times((1,), (0.1,)).seconds_for(3) == pytest.approx(0.3)


def test_more_tokens_never_take_less_time():
    times = known_times((1, 2, 4, 8, 16), (0.10, 0.14, 0.12, 0.13, 0.20))
    assert times.seconds == pytest.approx((0.10, 0.13, 0.13, 0.13, 0.20))


@pytest.mark.parametrize(
    ("max_size", "sizes"),
    [(1, (1,)), (5, (1, 2, 4, 5)), (16, (1, 2, 4, 6, 8, 12, 16)), (20, (1, 2, 4, 6, 8, 12, 16, 20))],
)
def test_the_points_of_a_grid(max_size, sizes):
    assert Grid.of(max_size, 16.0).sizes == sizes


def test_before_the_first_step_reading_and_computing_take_equally_long_at_the_ridge():
    times = StepTimes.of_ridge(64, 16.0)
    one, ridge, many = (times.seconds_for(size) for size in (1, 16, 64))
    assert ridge / one == pytest.approx(2**0.5, rel=0.01)
    assert many / one == pytest.approx(17**0.5, rel=0.01)
    assert not times.is_observed


def test_the_first_step_tells_the_level():
    times = StepTimes.of_ridge(64, 16.0).observed(1, 0.040)
    assert times.seconds_for(1) == pytest.approx(0.040, rel=0.01)
    assert times.seconds_for(16) == pytest.approx(0.040 * 2**0.5, rel=0.02)
    assert times.is_level_known


@pytest.mark.parametrize("curve", [cpu, gpu, steep])
def test_few_steps_tell_the_shape(curve):
    """What 16 tokens take says something of 64 tokens, which were never seen."""
    before = StepTimes.of_ridge(64, 16.0).observed(1, curve(1))
    times = before
    for _ in range(40):
        times = times.observed(1, curve(1)).observed(16, curve(16))
    assert times.seconds_for(16) == pytest.approx(curve(16), rel=0.1)
    wrong = [abs(np.log(known.seconds_for(64) / curve(64))) for known in (before, times)]
    assert wrong[1] < 0.8 * wrong[0]


def test_a_machine_that_slows_down_is_slower_at_sizes_not_in_use():
    times = CPU
    for _ in range(60):
        times = times.observed(1, 2 * cpu(1))
    assert times.seconds_for(1) == pytest.approx(2 * cpu(1), rel=0.01)
    assert times.seconds_for(64) > 1.5 * cpu(64)


def test_a_wrong_shape_is_set_nearly_right_by_the_steps_taken():
    times = known_times(SIZES, (0.044,) * 3 + (0.090,) * 3 + (0.100,))
    for _ in range(300):
        for size in (1, 5, 16, 30):
            times = times.observed(size, cpu(size))
    for size in (1, 5, 16, 30):
        assert times.seconds_for(size) == pytest.approx(cpu(size), rel=0.2)


def test_a_size_that_was_slow_once_is_not_shunned_for_ever():
    times = StepTimes.of_ridge(64, 16.0).observed(1, 0.02)
    for _ in range(5):
        times = times.observed(32, 0.5)
    slow = times.seconds_for(32)
    for _ in range(1000):
        times = times.observed(1, 0.02)
    assert times.seconds_for(32) < 0.5 * slow


def test_a_hiccup_hardly_moves_anything():
    times = CPU
    for _ in range(30):
        times = times.observed(8, cpu(8))
    before = times.seconds
    times = times.observed(8, 100 * cpu(8))
    assert all(0.99 <= after / earlier < 1.2 for earlier, after in zip(before, times.seconds, strict=True))
    for _ in range(40):
        times = times.observed(8, cpu(8))
    assert times.seconds == pytest.approx(before, rel=0.03)


def test_sizes_beyond_the_grid_are_learned_at_its_end():
    times = CPU
    for _ in range(60):
        times = times.observed(100, 0.3)
    assert times.seconds_for(100) > 0.25


@pytest.mark.parametrize("seconds", [-0.1, float("nan")])
def test_a_time_that_is_none_is_refused(seconds):
    with pytest.raises(ValueError, match="give a time that is not negative"):
        CPU.observed(1, seconds)


@given(
    st.integers(1, 40),
    st.floats(1.0, 200.0),
    st.lists(st.tuples(st.integers(1, 60), st.floats(0, 1e6)), max_size=20),
)
def test_whatever_is_observed_times_stay_times(max_size, ridge_tokens, steps):
    times = StepTimes.of_ridge(max_size, ridge_tokens)
    for size, seconds in steps:
        times = times.observed(size, seconds)
    table = times.up_to(50)
    assert np.isfinite(table).all()
    assert (np.diff(table) >= -1e-12 * table[1:]).all()
    assert (table > 0).all()
    assert (np.diag(times.covariance) >= -1e-9).all()


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=8))
def test_pooling_keeps_the_mean_and_what_ascends_already(seconds):
    pooled = never_descending(seconds)
    assert np.isclose(np.mean(pooled), np.mean(seconds))
    assert never_descending(list(pooled)) == pytest.approx(pooled)


# The table of rows and context


@pytest.mark.parametrize(("tokens", "bucket"), [(0, 512), (1, 512), (512, 512), (513, 1024), (5000, 8192)])
def test_contexts_are_rounded_up(tokens, bucket):
    assert context_bucket(tokens) == bucket


@pytest.mark.parametrize(("rows", "bucket"), [(1, 1), (2, 2), (3, 4), (16, 16), (17, 32)])
def test_rows_are_rounded_up(rows, bucket):
    assert rows_bucket(rows) == bucket


def test_a_first_bucket_begins_with_the_prior_of_all_its_rows():
    table = StepTimesTable(64, ridge_tokens=16.0)
    one, four = table.curve(1, 100), StepTimesTable(64, ridge_tokens=16.0).curve(4, 100)
    assert not one.is_observed
    assert four.seconds_for(4) == pytest.approx(one.seconds_for(16))


def test_another_bucket_begins_with_the_nearest_that_was_observed():
    table = StepTimesTable(64)
    table.curve(8, 100)  # looked up, and never observed
    table.put(1, 100, CPU)
    assert table.curve(1, 900).seconds == pytest.approx(CPU.seconds)
    assert table.curve(1, 900).is_observed
    expected = [CPU.seconds_for(2 * size) for size in CPU.grid.sizes]
    assert table.curve(2, 900).seconds == pytest.approx(expected)
    assert table.seconds(64, 1, 100) == CPU.seconds_for(64)
    assert table.seconds(64, 4, 100) == pytest.approx(CPU.seconds_for(64))
