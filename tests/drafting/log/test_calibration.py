"""Calibration: the initial probabilities, that they add up, and that the weights learn."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookahead.drafting.growth.candidates import GUESSED, LUCKY, OWN, RECYCLED, SHARED
from lookahead.drafting.growth.ranks import RANK_BUCKETS
from lookahead.drafting.growth.runner_ups import ALTERNATIVES
from lookahead.drafting.log.calibration import (
    AGES,
    ALL_COLUMNS,
    ALTERNATIVE,
    BIASES,
    COLUMNS,
    FEATURES,
    FREQUENT_RANK,
    HINT_BIASES,
    HINT_FEATURES,
    HINTS,
    LUCK_SLOPES,
    LUCKY_PLACE,
    MIN_EVIDENCE,
    NO_HINT,
    NO_SUCCESSORS,
    NONE_BIAS,
    NONE_SLOPE,
    RANKS,
    RUNNER_UP,
    SOURCES,
    SQUARES,
    TOKEN_WEIGHTS,
    UNRANKED,
    VALUE,
    Calibrations,
    feature_index,
    hint_feature,
    initial_weights,
    pair_column,
    softmax_with_none,
    source_of_feature,
    token_column,
    update_weights,
    with_token_weights,
)
from lookahead.drafting.log.successors import SUCCESSORS


def different_hints(count):
    """Hints that no two candidates share."""
    hints = (ALTERNATIVE, FREQUENT_RANK, RUNNER_UP, LUCKY_PLACE)
    numbers = [[hint_feature(hint, place % RANK_BUCKETS, 0, 0) for hint in hints] for place in range(count)]
    return np.array(numbers, np.int32).reshape(-1, HINTS)


AFTER = 5
"""The token that the candidates come behind."""


def without_noise(hints):
    """These hints where nothing is known of the noise."""
    hints[:, LUCKY_PLACE] = NO_HINT
    return hints


def weighed(features, evidence, none, weights, hints=None, luck=None, tokens=None):
    probabilities = np.empty(len(features))
    hints = without_noise(different_hints(len(features))) if hints is None else hints.astype(np.int32)
    luck = np.zeros(len(features)) if luck is None else luck
    evidence = np.array(evidence, np.float64)
    tokens = np.arange(len(features), dtype=np.int32) if tokens is None else tokens
    features = np.array(features, np.int32)
    softmax_with_none(AFTER, tokens, features, hints, evidence, luck, none, weights, probabilities)
    return probabilities


def test_each_hint_has_numbers_of_its_own():
    buckets = {
        ALTERNATIVE: ALTERNATIVES + 2,
        FREQUENT_RANK: RANK_BUCKETS,
        RUNNER_UP: RANK_BUCKETS,
        LUCKY_PLACE: 2 * RANK_BUCKETS,
    }
    numbers = [
        hint_feature(hint, bucket, known, root)
        for hint, count in buckets.items()
        for bucket in range(count)
        for known in (0, 1)
        for root in (0, 1)
    ]
    assert sorted(numbers) == list(range(HINT_FEATURES))


def test_each_feature_has_a_number_of_its_own_and_tells_its_source():
    features = [(s, r, a) for s in range(SOURCES) for r in range(RANKS) for a in range(AGES)]
    numbers = [feature_index(*feature) for feature in features]
    assert sorted(numbers) == list(range(FEATURES))
    assert [source_of_feature(number) for number in numbers] == [source for source, _, _ in features]


@pytest.mark.parametrize(
    ("feature", "evidence", "score"),
    [
        ((OWN, 0, 0), -1.0, -1.0 + 0.7),
        ((OWN, UNRANKED, 4), -1.0, -1.0 + 0.7 - 0.3 * math.log(9) + 0.4),
        ((SHARED, 2, 1), -2.0, -1.4 - 0.1 - 0.5 * math.log(3) + 0.4),
        ((SHARED, NO_SUCCESSORS, 0), -2.0, -1.4 - 0.1 - 0.75),
        ((RECYCLED, 7, 2), -0.5, -0.3 - 2.0 - 0.9 * math.log(8) + 0.8),
        ((GUESSED, UNRANKED, 2), -0.5, -0.3 - 4.0 + 0.8),
        ((GUESSED, NO_SUCCESSORS, 0), -0.5, -0.3 - 4.0),
        ((LUCKY, UNRANKED, 1), -9.0, -9.0 - 2.0 + 0.4),
    ],
)
def test_at_first_a_candidate_has_the_documented_score(feature, evidence, score):
    (probability,) = weighed([feature_index(*feature)], [evidence], math.log(0.3), initial_weights())
    assert probability == pytest.approx(math.exp(score) / (0.3 + math.exp(score)))


def test_at_first_what_was_seen_lately_and_what_the_model_likes_is_more_probable():
    biases = initial_weights()[VALUE, BIASES:HINT_BIASES].reshape(SOURCES, RANKS, AGES)
    assert (np.diff(biases, axis=2) > 0).all()
    assert (np.diff(biases[:GUESSED, :NO_SUCCESSORS], axis=1) < 0).all()


def test_at_first_the_models_better_successors_are_more_probable():
    features = [feature_index(RECYCLED, rank, 0) for rank in range(SUCCESSORS)]
    probabilities = weighed(features, np.full(SUCCESSORS, math.log(0.9)), math.log(0.9), initial_weights())
    assert (np.diff(probabilities) < 0).all()
    assert 0 < probabilities.sum() < 1


FINITE = st.floats(-30, 30)
CANDIDATE = st.tuples(st.integers(0, FEATURES - 1), st.floats(math.log(MIN_EVIDENCE), 0))


@given(
    st.lists(CANDIDATE, max_size=12),
    st.floats(math.log(MIN_EVIDENCE), 0),
    st.lists(FINITE, min_size=BIASES, max_size=BIASES),
    st.integers(0, 2**32 - 1),
)
def test_probabilities_are_probabilities_that_leave_something_to_none_of_them(candidates, none, first, seed):
    weights = initial_weights()
    weights[VALUE, :BIASES] = first
    random = np.random.default_rng(seed)
    weights[VALUE, BIASES:] = random.normal(0, 10, COLUMNS - BIASES)
    hints = random.integers(0, HINT_FEATURES, (len(candidates), HINTS))
    is_known = random.random() < 0.5
    hints, luck = hints if is_known else without_noise(hints), random.normal(0, 3, len(candidates))
    features = [feature for feature, _ in candidates]
    probabilities = weighed(features, [e for _, e in candidates], none, weights, hints, luck)
    assert np.isfinite(probabilities).all()
    assert (probabilities >= 0).all()
    assert probabilities.sum() <= 1 + 1e-12
    scores = [weights[VALUE, NONE_BIAS] + weights[VALUE, NONE_SLOPE] * none]
    scores += [
        weights[VALUE, 2 + source_of_feature(f)] * e
        + weights[VALUE, BIASES + f]
        + weights[VALUE, HINT_BIASES + its_hints[its_hints != NO_HINT]].sum()
        + is_known * weights[VALUE, LUCK_SLOPES + source_of_feature(f)] * its_luck
        for (f, e), its_hints, its_luck in zip(candidates, hints, luck, strict=True)
    ]
    exact = np.exp(scores - np.max(scores))
    np.testing.assert_allclose(probabilities, exact[1:] / exact.sum(), atol=1e-12)


def learn_often(tokens, features, evidence, none, coming):
    weights = initial_weights()
    features, evidence = np.array(features, np.int32), np.log(evidence)
    tokens, hints = np.array(tokens, np.int32), without_noise(different_hints(len(features)))
    luck = np.zeros(len(features))
    for token in coming:
        probabilities = weighed(features, evidence, none, weights)
        update_weights(AFTER, tokens, features, hints, evidence, luck, none, probabilities, weights, token)
    return weighed(features, evidence, none, weights), weights


@pytest.mark.parametrize("often", [0.1, 0.5, 0.9])
def test_the_weights_learn_a_biased_coin_that_its_source_got_wrong(often):
    coming = np.where(np.random.default_rng(0).random(4000) < often, 7, 8)
    feature = [feature_index(SHARED, UNRANKED, 0)]
    probabilities, _ = learn_often([7], feature, [0.4], math.log(0.6), coming)
    assert probabilities[0] == pytest.approx(often, abs=0.05)


def test_the_weights_learn_which_of_two_kinds_of_candidates_comes():
    coming = np.random.default_rng(1).choice([7, 8, 9], 4000, p=[0.6, 0.3, 0.1])
    features = [
        feature_index(OWN, UNRANKED, 1),
        feature_index(OWN, 0, 1),
    ]  # the sources give the first one more
    probabilities, _ = learn_often([8, 7], features, [0.7, 0.2], math.log(0.1), coming)
    np.testing.assert_allclose(probabilities, [0.3, 0.6], atol=0.08)


def test_what_was_not_asked_learns_nothing():
    feature = feature_index(OWN, 3, 2)
    _, weights = learn_often([7], [feature], [0.5], math.log(0.5), [7] * 10)
    moved = np.flatnonzero(weights[VALUE] != initial_weights()[VALUE])
    hints = HINT_BIASES + different_hints(1)[0, :LUCKY_PLACE]
    assert moved.tolist() == [NONE_BIAS, NONE_SLOPE, 2 + OWN, BIASES + feature, *hints]
    assert np.flatnonzero(weights[SQUARES] != initial_weights()[SQUARES]).tolist() == moved.tolist()


def test_a_step_follows_the_gradient_of_the_log_loss():
    features, evidence, none = (
        [feature_index(OWN, 1, 1), feature_index(RECYCLED, 2, 0)],
        [0.3, 0.5],
        math.log(0.4),
    )
    before = initial_weights()

    def loss(weights, token):
        probabilities = weighed(features, np.log(evidence), none, weights)
        return -math.log({7: probabilities[0], 8: probabilities[1]}.get(token, 1 - probabilities.sum()))

    for token in (7, 8, 9):
        _, after = learn_often([7, 8], features, evidence, none, [token])
        for index in np.flatnonzero(after[SQUARES] != before[SQUARES]):
            nudged = before.copy()
            nudged[VALUE, index] += 1e-6
            slope = (loss(nudged, token) - loss(before, token)) / 1e-6
            assert after[SQUARES, index] - before[SQUARES, index] == pytest.approx(slope**2, rel=1e-3)
            assert np.sign(after[VALUE, index] - before[VALUE, index]) == -np.sign(slope)


def test_where_the_noise_is_known_the_weights_learn_how_much_it_says():
    """Of two tokens with p = 0.7 and 0.3, the one with the larger p / E comes."""
    random, weights = np.random.default_rng(3), initial_weights()
    tokens, features = np.array([7, 8], np.int32), np.array([feature_index(SHARED, 0, 0)] * 2, np.int32)
    p, hints = np.array([0.7, 0.3]), different_hints(2)
    hits = []
    for _ in range(4000):
        noise = random.exponential(size=2)
        luck, came = -np.log(noise), int(tokens[np.argmax(p / noise)])
        probabilities = weighed(features, np.log(p), math.log(1e-3), weights, hints, luck)
        hits.append(tokens[np.argmax(probabilities)] == came)
        arrays = (tokens, features, hints, np.log(p), luck)
        update_weights(AFTER, *arrays, math.log(1e-3), probabilities, weights, came)
    assert np.mean(hits[-1000:]) > 0.95  # without the noise, 0.7
    assert weights[VALUE, LUCK_SLOPES + SHARED] > 1.0  # it decides all


def test_token_weights_learn_which_of_two_alike_candidates_comes_after_which_token():
    """Behind 3 always 7, behind 4 always 8, and the sources say the same of both."""
    random, weights = np.random.default_rng(5), with_token_weights(initial_weights())
    tokens, features = np.array([7, 8], np.int32), [feature_index(SHARED, 0, 0)] * 2
    hints, luck, evidence = without_noise(different_hints(2)), np.zeros(2), np.log([0.4, 0.4])
    hints[1] = hints[0]

    def probabilities(after):
        found = np.empty(2)
        arrays = (tokens, np.array(features, np.int32), hints, evidence, luck)
        softmax_with_none(after, *arrays, math.log(0.2), weights, found)
        return arrays, found

    for after in random.choice([3, 4], 400).tolist():
        arrays, found = probabilities(after)
        update_weights(after, *arrays, math.log(0.2), found, weights, after + 4)
    assert probabilities(3)[1][0] > 0.9
    assert probabilities(4)[1][1] > 0.9
    moved = np.flatnonzero(weights[VALUE, COLUMNS:] != 0) + COLUMNS
    columns = {token_column(token) for token in (7, 8)}
    columns |= {pair_column(after, token) for after in (3, 4) for token in (7, 8)}
    assert set(moved.tolist()) == columns


@given(after=st.integers(0, 2**31 - 1), token=st.integers(0, 2**31 - 1))
def test_the_columns_of_tokens_and_pairs_are_behind_all_others(after, token):
    assert COLUMNS <= token_column(token) < COLUMNS + TOKEN_WEIGHTS
    assert COLUMNS + TOKEN_WEIGHTS <= pair_column(after, token) < ALL_COLUMNS


def test_the_weights_of_the_least_recently_used_namespace_leave_before_its_counts():
    calibrations = Calibrations(2**26)  # weights for 16, counts for 64
    first = calibrations.of(1)
    for owner in range(2, 17):
        calibrations.of(owner)
    assert calibrations.of(1).calibration.weights is first.calibration.weights
    for owner in range(2, 18):
        calibrations.of(owner)
    again = calibrations.of(1)
    assert again.calibration.weights is not first.calibration.weights
    assert again.frequent is first.frequent
