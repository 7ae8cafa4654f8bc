"""Calibration: turn what the sources say into probabilities that come true as often as they promise.

Each candidate has evidence, the logarithm of the share that the sources gave it, and a feature: its source,
its rank among the model's successors of the token before, and how long ago this request saw it. It has three
further features, the hints: its place among the alternatives, and its ranks among the frequent tokens of
answers and among the runner-ups (`growth.frequent`, `growth.runner_ups`). Where the noise of a sampled step
is known, so is its luck, and its place among the lucky tokens is a hint as well (`drafting.noise`). Large
memories also weigh the token itself, and the pair of it and the node's token, by hash. A softmax over the
candidates and "none of them" turns these into probabilities. Its weights are learned from every
token that comes (stochastic gradient descent on the log loss with AdaGrad's step sizes), so that they stay
calibrated while running.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from lookahead.drafting.arrays import Float64Array, Int32Array, Integer
from lookahead.drafting.growth.candidates import GUESSED
from lookahead.drafting.growth.frequent import UNKNOWN, count_tokens, new_counts
from lookahead.drafting.growth.ranks import RANK_BUCKETS
from lookahead.drafting.growth.runner_ups import ALTERNATIVES
from lookahead.drafting.log.matches import NO_OWNER, initial_hit_rates
from lookahead.drafting.log.ring import GAP
from lookahead.drafting.log.successors import SUCCESSORS
from lookahead.jit import lean_kernel

Kept = TypeVar("Kept")

SOURCES = 5
RANKS = SUCCESSORS + 2
UNRANKED, NO_SUCCESSORS = SUCCESSORS, SUCCESSORS + 1
"""Ranks of a token that is not among the model's successors, and of one where none are known."""
AGES = 5
FEATURES = SOURCES * RANKS * AGES
NOT_ALTERNATIVE, NO_ALTERNATIVES = ALTERNATIVES, ALTERNATIVES + 1
"""Places of a token that is not among the alternatives, and of one where there are none."""
HINTS = 4
_CASES = 4
"""A hint counts by whether the model's successors are known and whether the node is node 0."""
_HINT_BUCKETS = (ALTERNATIVES + 2, RANK_BUCKETS, RANK_BUCKETS, 2 * RANK_BUCKETS)
_HINT_BEGINS = tuple(sum(_HINT_BUCKETS[:hint]) * _CASES for hint in range(HINTS))
HINT_FEATURES = sum(_HINT_BUCKETS) * _CASES
ALTERNATIVE, FREQUENT_RANK, RUNNER_UP, LUCKY_PLACE = 0, 1, 2, 3
"""Columns of the hints."""
NO_HINT = -1
"""The place among lucky tokens has no feature where nothing is known of the noise."""

NONE_BIAS, NONE_SLOPE, SLOPES = 0, 1, 2
BIASES = SLOPES + SOURCES
HINT_BIASES = BIASES + FEATURES
LUCK_SLOPES = HINT_BIASES + HINT_FEATURES
COLUMNS = LUCK_SLOPES + SOURCES
"""Columns of the weights: bias and slope of "none of them", a slope per source, a bias per feature, and the
slope of each source's luck."""
TOKEN_WEIGHTS, PAIR_WEIGHTS = 2**12, 2**14
"""Further columns: a bias per hash of the candidate, and one per hash of it and the node's token."""
ALL_COLUMNS = COLUMNS + TOKEN_WEIGHTS + PAIR_WEIGHTS

LEARNING_RATE = 0.4
INITIAL_SQUARES = 10.0
"""Makes the first steps a third as long: the initial weights are better than a guess."""
MIN_EVIDENCE = 1e-5
"""Smaller shares count as this one, before their logarithm is taken."""

_BYTES_PER_NAMESPACE, _MAX_KEPT = 2**20, 1024
"""What is learned in one namespace is kept for so many bytes of the memory, of so many namespaces at most."""
_MIN_BYTES_WITH_TOKEN_WEIGHTS, _BYTES_PER_TOKEN_WEIGHTS = 2**26, 2**22
"""A memory of so many bytes has token weights. Of it, so many pay for the weights of one namespace, 8%."""

VALUE, SQUARES = 0, 1
"""Rows of the weights: their values, and the sums of their squared gradients."""


class CalibrationState(NamedTuple):
    """What a log has learned about its sources.

    Attributes:
        hit_rates: float64 [buckets, 2], Beta counts (trials, hits) of the groups, see `candidates`.
        weights: float64 [2, COLUMNS], see `initial_weights`; or [2, ALL_COLUMNS], with token weights.
    """

    hit_rates: Float64Array
    weights: Float64Array


def initial_weights() -> Float64Array:
    """Return the initial weights: float64 [2, COLUMNS], values and sums of squared gradients.

    Fitted on recorded answers and rounded (research/fit_calibration.py). A candidate with evidence e, rank r
    counted from 1 (9 if it is not among the model's successors) and age a has the score

        own         e     + 0.7 - 0.3 ln r + 0.1 a
        shared      0.7 e - 0.1 - 0.5 ln r + 0.4 a
        recycled    0.6 e - 2.0 - 0.9 ln r + 0.4 a
        guessed     0.6 e - 4.0            + 0.4 a
        lucky           e - 2.0            + 0.4 a

    Where no successors are known, the term in r is -0.75, except for guessed and lucky ones. The hints count
    nothing at first. Where the noise is known, 0.7 of the luck is added, or all of it for lucky ones.
    """
    slopes, bases = np.array([1.0, 0.7, 0.6, 0.6, 1.0]), np.array([0.7, -0.1, -2.0, -4.0, -2.0])
    by_rank, by_age = np.array([0.3, 0.5, 0.9, 0.0, 0.0]), np.array([0.1, 0.4, 0.4, 0.4, 0.4])
    ranks = np.log(np.arange(RANKS) + 1.0)
    weights = np.zeros((2, COLUMNS))
    weights[VALUE, NONE_SLOPE], weights[VALUE, SLOPES:BIASES] = 1.0, slopes
    biases = weights[VALUE, BIASES:HINT_BIASES].reshape(SOURCES, RANKS, AGES)
    biases += bases[:, None, None] + by_age[:, None, None] * np.arange(AGES)
    biases[:, :NO_SUCCESSORS] -= (by_rank[:, None] * ranks[:NO_SUCCESSORS])[:, :, None]
    biases[:GUESSED, NO_SUCCESSORS] -= 0.75
    weights[VALUE, LUCK_SLOPES:] = (0.7, 0.7, 0.7, 0.7, 1.0)
    weights[SQUARES] = INITIAL_SQUARES
    return weights


def with_token_weights(weights: Float64Array) -> Float64Array:
    """Return weights [2, COLUMNS] with initial token weights behind them: [2, ALL_COLUMNS]."""
    widened = np.zeros((2, ALL_COLUMNS))
    widened[:, :COLUMNS], widened[SQUARES, COLUMNS:] = weights, INITIAL_SQUARES
    return widened


@lean_kernel
def feature_index(source: Integer, rank: Integer, age: Integer) -> Integer:
    """Return the number of a feature."""
    return (source * RANKS + rank) * AGES + age


@lean_kernel
def hint_feature(hint: Integer, bucket: Integer, has_successors: Integer, is_root: Integer) -> Integer:
    """Return the number of a feature of a hint."""
    return _HINT_BEGINS[hint] + (bucket * 2 + has_successors) * 2 + is_root


@lean_kernel
def token_column(token: Integer) -> Integer:
    """Return the column of a token's weight."""
    key = np.uint64(token) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64(COLUMNS) + np.int64((key >> np.uint64(40)) & np.uint64(TOKEN_WEIGHTS - 1))


@lean_kernel
def pair_column(after: Integer, token: Integer) -> Integer:
    """Return the column of the weight of a token behind the token `after`."""
    key = (np.uint64(after) * np.uint64(0xD1B54A32D192ED03)) ^ (np.uint64(token) + np.uint64(1))
    key *= np.uint64(0x9E3779B97F4A7C15)
    return np.int64(COLUMNS + TOKEN_WEIGHTS) + np.int64((key >> np.uint64(40)) & np.uint64(PAIR_WEIGHTS - 1))


@lean_kernel
def source_of_feature(feature: Integer) -> Integer:
    """Return the source of a candidate with this feature."""
    return feature // (RANKS * AGES)


@lean_kernel
def softmax_with_none(
    after: Integer,
    tokens: Int32Array,
    features: Int32Array,
    hints: Int32Array,
    evidence: Float64Array,
    luck: Float64Array,
    none_evidence: float,
    weights: Float64Array,
    probabilities: Float64Array,
) -> None:
    """Write the probability of each candidate: a softmax over the candidates and "none of them".

    With the evidence ln 0.5 and ln 0.2, slopes of 1 and biases of 0.7 and 0:

        candidate   score             exp(score)   probability
        cat         ln 0.5 + 0.7      1.0          1.0 / 1.5 = 0.67
        dog         ln 0.2            0.2          0.2 / 1.5 = 0.13
        none        ln 0.3            0.3          (the rest, 0.20)

    Args:
        after: The node's token.
        tokens: int32 [n], the candidates.
        features: int32 [n].
        hints: int32 [n, HINTS], the features of the hints.
        evidence: float64 [n], the logarithms of the shares.
        luck: float64 [n], what the noise of the draw adds to the logarithm of each one's probability.
        none_evidence: The logarithm of the share that remains.
        weights: See `initial_weights`.
        probabilities: float64 [n], written.
    """
    values = weights[VALUE]
    none_score = values[NONE_BIAS] + values[NONE_SLOPE] * none_evidence
    highest = none_score
    for i in range(len(features)):
        feature = features[i]
        source = source_of_feature(feature)
        score = values[SLOPES + source] * evidence[i] + values[BIASES + feature]
        for hint in range(LUCKY_PLACE):
            score += values[HINT_BIASES + hints[i, hint]]
        if hints[i, LUCKY_PLACE] != NO_HINT:
            score += values[LUCK_SLOPES + source] * luck[i] + values[HINT_BIASES + hints[i, LUCKY_PLACE]]
        if len(values) > COLUMNS:
            score += values[token_column(tokens[i])] + values[pair_column(after, tokens[i])]
        probabilities[i] = score
        highest = max(highest, score)
    total = math.exp(none_score - highest)
    for i in range(len(features)):
        probabilities[i] = math.exp(probabilities[i] - highest)
        total += probabilities[i]
    for i in range(len(features)):
        probabilities[i] /= total


@lean_kernel
def adagrad_step(weights: Float64Array, index: Integer, gradient: float) -> None:
    """Move one weight."""
    weights[SQUARES, index] += gradient * gradient
    weights[VALUE, index] += LEARNING_RATE * gradient / math.sqrt(weights[SQUARES, index])


@lean_kernel
def update_weights(
    after: Integer,
    tokens: Int32Array,
    features: Int32Array,
    hints: Int32Array,
    evidence: Float64Array,
    luck: Float64Array,
    none_evidence: float,
    probabilities: Float64Array,
    weights: Float64Array,
    token: Integer,
) -> None:
    """Move the weights towards having predicted the `token` that came behind `after`.

    `probabilities` are those of the prediction.
    """
    none_probability, missed = 1.0, 1.0
    for i in range(len(tokens)):
        none_probability -= probabilities[i]
        came = 1.0 if tokens[i] == token else 0.0
        missed -= came
        error = came - probabilities[i]
        adagrad_step(weights, SLOPES + source_of_feature(features[i]), error * evidence[i])
        adagrad_step(weights, BIASES + features[i], error)
        for hint in range(LUCKY_PLACE):
            adagrad_step(weights, HINT_BIASES + hints[i, hint], error)
        if hints[i, LUCKY_PLACE] != NO_HINT:
            adagrad_step(weights, HINT_BIASES + hints[i, LUCKY_PLACE], error)
            adagrad_step(weights, LUCK_SLOPES + source_of_feature(features[i]), error * luck[i])
        if weights.shape[1] > COLUMNS:
            adagrad_step(weights, token_column(tokens[i]), error)
            adagrad_step(weights, pair_column(after, tokens[i]), error)
    error = missed - none_probability
    adagrad_step(weights, NONE_SLOPE, error * none_evidence)
    adagrad_step(weights, NONE_BIAS, error)


class Learned(NamedTuple):
    """What is learned in one namespace, apart from its texts.

    Attributes:
        calibration: Of the sources.
        frequent: int32 [2, COUNTED], the counts of its answers' tokens, see `growth.frequent`.
    """

    calibration: CalibrationState
    frequent: Int32Array


class Calibrations:
    """Keeps what is learned in each of the namespaces that were used last.

    Shared by all, they would let one tenant's texts change how many tokens are drafted for another. Many
    namespaces keep their counts, which are small, and fewer their weights if tokens have weights, too.

    Args:
        max_bytes: The cap of the memory that they belong to.

    Attributes:
        initial: What is assumed about the sources before anything came.
        max_bytes: Bytes of all that can be kept.
    """

    def __init__(self, max_bytes: int) -> None:
        has_token_weights = max_bytes >= _MIN_BYTES_WITH_TOKEN_WEIGHTS
        self._max_counts = max(1, min(_MAX_KEPT, max_bytes // _BYTES_PER_NAMESPACE))
        max_states = max_bytes // _BYTES_PER_TOKEN_WEIGHTS if has_token_weights else self._max_counts
        self._max_states = min(_MAX_KEPT, max_states)
        self._counts: OrderedDict[int, Int32Array] = OrderedDict()
        self._states: OrderedDict[int, CalibrationState] = OrderedDict()
        weights = with_token_weights(initial_weights()) if has_token_weights else initial_weights()
        self.initial = CalibrationState(initial_hit_rates(), weights)
        self.max_bytes = self._max_counts * new_counts().nbytes
        self.max_bytes += self._max_states * sum(array.nbytes for array in self.initial)

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        states = sum(array.nbytes for state in self._states.values() for array in state)
        return states + sum(counts.nbytes for counts in self._counts.values())

    def of(self, owner: int) -> Learned:
        """Return what is learned in a namespace, new at its first use; it is the last one used."""
        if owner == NO_OWNER:
            return Learned(self._new_state(), new_counts())
        state = _used(self._states, owner, self._new_state, self._max_states)
        return Learned(state, _used(self._counts, owner, new_counts, self._max_counts))

    def known(self, owner: int) -> CalibrationState:
        """Return the calibration of a namespace, the initial one if none is kept, without token weights."""
        hit_rates, weights = self._states.get(owner) or self.initial
        return CalibrationState(hit_rates.copy(), weights[:, :COLUMNS].copy())

    def count_text(self, owner: int, tokens: Int32Array, vocabulary_size: int | None) -> None:
        """Count the tokens of a text of a namespace, as far as they are within the vocabulary."""
        within = tokens if vocabulary_size is None else tokens[tokens < vocabulary_size]
        count_tokens(self.of(owner).frequent, within)

    def count(self, tokens: Int32Array, owners: Int32Array) -> None:
        """Count the tokens of texts, GAPs left out, for the namespaces that they belong to."""
        for owner in np.unique(owners[tokens != GAP]).tolist():
            count_tokens(self.of(owner).frequent, tokens[(owners == owner) & (tokens != GAP)])

    def keep_within(self, vocabulary_size: int) -> None:
        """Forget tokens beyond a vocabulary."""
        for frequent in self._counts.values():
            tokens, counts = frequent
            is_kept = tokens < vocabulary_size
            kept = frequent[:, is_kept]
            tokens[:], counts[:] = UNKNOWN, 0
            frequent[:, : kept.shape[1]] = kept

    def take(self, owner: int, snapshot: Mapping[str, npt.NDArray[Any]]) -> None:
        """Keep the calibration of a snapshot for a namespace; it begins with initial token weights."""
        if owner != NO_OWNER:
            self.of(owner)
            self._states[owner] = self._new_state()
            self._states[owner].hit_rates[:] = snapshot["hit_rates"]
            self._states[owner].weights[:, :COLUMNS] = snapshot["weights"]

    def forget(self, owners: Collection[int]) -> None:
        """Forget what was learned in namespaces."""
        for owner in owners:
            self._states.pop(owner, None)
            self._counts.pop(owner, None)

    def _new_state(self) -> CalibrationState:
        return CalibrationState(*(array.copy() for array in self.initial))


def _used(kept: OrderedDict[int, Kept], owner: int, new: Callable[[], Kept], max_kept: int) -> Kept:
    """Return what is kept for an owner, new at its first use; the least recently used one may leave."""
    found = kept[owner] = kept.pop(owner) if owner in kept else new()
    if len(kept) > max_kept:
        kept.popitem(last=False)
    return found
