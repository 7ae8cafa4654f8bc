"""The initial hit rates of a log's matches."""

import numpy as np
import pytest

from lookahead.drafting.growth.candidates import HITS, OWN, SHARED, TRIALS
from lookahead.drafting.log.matches import (
    CROWDS,
    INITIAL_TRIALS,
    LENGTHS,
    LONGEST_MATCH,
    VARIETIES,
    group_bucket,
    initial_hit_rates,
)


def hit_rate(source, length, *, offered, votes):
    trials, hits = initial_hit_rates()[group_bucket(source, length, offered, votes)]
    return hits / trials


@pytest.mark.parametrize(
    ("source", "length", "offered", "votes", "odds"),
    [
        (OWN, 1, 1, 1.0, 0.6),
        (OWN, 5, 1, 1.0, 3.0),
        (OWN, LONGEST_MATCH + 3, 1, 1.0, 9.6),
        (OWN, 1, 2, 2.0, 0.6 * 2 * 0.6),
        (SHARED, 1, 1, 1.0, 0.12),
        (SHARED, 4, 6, 10.0, 0.12 * 4 * 8 * 0.6**3),
    ],
)
def test_at_first_a_group_has_the_documented_odds(source, length, offered, votes, odds):
    assert hit_rate(source, length, offered=offered, votes=votes) == pytest.approx(odds / (1 + odds))


def test_at_first_longer_matches_and_larger_crowds_hit_more_and_variety_less():
    initial = initial_hit_rates()
    rates = (initial[:, HITS] / initial[:, TRIALS]).reshape(2, LENGTHS, VARIETIES, CROWDS)
    assert (np.diff(rates[:, 1:], axis=1) > 0).all()
    assert (np.diff(rates, axis=2) < 0).all()
    assert (np.diff(rates, axis=3) > 0).all()
    assert (rates[OWN] > rates[SHARED]).all()


def test_the_initial_hit_rates_count_as_a_few_trials_of_which_some_hit_and_some_missed():
    initial = initial_hit_rates()
    assert (initial[:, TRIALS] == INITIAL_TRIALS).all()
    assert ((initial[:, HITS] > 0) & (initial[:, HITS] < initial[:, TRIALS])).all()
