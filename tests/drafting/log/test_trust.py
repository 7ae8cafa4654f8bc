"""Trust: how much a log's matches are believed at first."""

import numpy as np
import pytest

from lookahead.drafting.growth.candidates import HITS, OWN, SHARED, TRIALS
from lookahead.drafting.log.matches import (
    CROWDS,
    LENGTHS,
    LONGEST_MATCH,
    TRIALS_AT_FIRST,
    VARIETIES,
    initial_log_trust,
    match_bucket,
)


def trusted(source, length, *, offered, votes):
    trials, hits = initial_log_trust()[match_bucket(source, length, offered, votes)]
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
    assert trusted(source, length, offered=offered, votes=votes) == pytest.approx(odds / (1 + odds))


def test_at_first_longer_matches_and_larger_crowds_are_believed_more_and_variety_less():
    trust = initial_log_trust()
    believed = (trust[:, HITS] / trust[:, TRIALS]).reshape(2, LENGTHS, VARIETIES, CROWDS)
    assert (np.diff(believed[:, 1:], axis=1) > 0).all()
    assert (np.diff(believed, axis=2) < 0).all()
    assert (np.diff(believed, axis=3) > 0).all()
    assert (believed[OWN] > believed[SHARED]).all()


def test_what_trust_begins_with_counts_as_a_few_trials_of_which_some_hit_and_some_missed():
    trust = initial_log_trust()
    assert (trust[:, TRIALS] == TRIALS_AT_FIRST).all()
    assert ((trust[:, HITS] > 0) & (trust[:, HITS] < trust[:, TRIALS])).all()
