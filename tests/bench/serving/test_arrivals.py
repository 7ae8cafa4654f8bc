"""When requests arrive."""

from itertools import pairwise

import pytest

from lookahead.bench.serving.arrivals import BURST, Arrivals, arrival_times
from lookahead.errors import ConfigError


@pytest.mark.parametrize("kind", list(Arrivals))
def test_a_seed_gives_the_same_moments_in_order_from_the_beginning(kind):
    times = arrival_times(kind, 10, 2.0, seed=3)
    assert times == arrival_times(kind, 10, 2.0, seed=3)
    assert (len(times), times[0]) == (10, 0.0)
    assert times == sorted(times)
    assert arrival_times(kind, 0, 2.0, seed=3) == []


def test_another_seed_gives_other_moments():
    assert arrival_times(Arrivals.POISSON, 10, 2.0, seed=3) != arrival_times(
        Arrivals.POISSON, 10, 2.0, seed=4
    )


def test_all_arrive_at_once():
    assert arrival_times(Arrivals.ALL, 3, 2.0, seed=0) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", [Arrivals.POISSON, Arrivals.BURSTS])
def test_the_rate_is_kept_on_average(kind):
    times = arrival_times(kind, 8000, 5.0, seed=1)
    assert len(times) / times[-1] == pytest.approx(5.0, rel=0.1)


def test_bursts_arrive_together():
    times = arrival_times(Arrivals.BURSTS, 3 * BURST + 1, 5.0, seed=1)
    assert [times.count(moment) for moment in dict.fromkeys(times)] == [BURST, BURST, BURST, 1]
    poisson = arrival_times(Arrivals.POISSON, 13, 5.0, seed=1)
    assert all(before < after for before, after in pairwise(poisson))


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_a_rate_is_positive(rate):
    with pytest.raises(ConfigError, match="requests per second above 0"):
        arrival_times(Arrivals.POISSON, 3, rate, seed=0)
