"""Weighing the evidence: from what the sources say to probabilities that hold what they promise.

Each candidate comes with the logarithm of the share that the sources gave it, and with what else is known of
it: its source, whether the model itself named it the last time it read the token before (its rank there), and
how long ago this request saw it. A softmax over the candidates, and "none of them", turns that into
probabilities; its few weights are learned from every token that comes (stochastic gradient descent on the
log loss, with AdaGrad's step sizes), so that they stay calibrated while running.
"""

import math

import numpy as np

from lookahead.drafting.arrays import Float64Array, Int32Array, Integer
from lookahead.drafting.log.successors import SUCCESSORS
from lookahead.jit import lean_kernel

SOURCES = 3
RANKS = SUCCESSORS + 2
UNRANKED, NO_SUCCESSORS = SUCCESSORS, SUCCESSORS + 1
"""Ranks of a token that is not among the model's successors, and of one where none are known."""
AGES = 5
FEATURES = SOURCES * RANKS * AGES

NONE_BIAS, NONE_SLOPE, SLOPES = 0, 1, 2
BIASES = SLOPES + SOURCES

LEARNING_RATE = 0.4
SQUARES_AT_FIRST = 10.0
"""With as much the first steps are a third as long: what the weights begin with is better than a guess."""
MIN_EVIDENCE = 1e-5


VALUE, SQUARES = 0, 1


def initial_weights() -> Float64Array:
    """Return the weights to begin with.

    float64 [2, 5 + FEATURES]: bias and slope of "none of them", a slope a source, a bias a feature; below
    them the sums of their squared gradients.

    What recorded answers taught, rounded (research/fit_beliefs.py). Of a candidate with evidence e, rank r
    counted from 1 (not among the model's successors: 9) and age a, the score is

        own         e     + 0.7 - 0.3 ln r + 0.1 a
        shared      0.7 e - 0.1 - 0.5 ln r + 0.4 a
        recycled    0.6 e - 2.0 - 0.9 ln r + 0.4 a

    and 0.75 less, instead of the term in r, where no successors are known.
    """
    slopes, bases = np.array([1.0, 0.7, 0.6]), np.array([0.7, -0.1, -2.0])
    by_rank, by_age = np.array([0.3, 0.5, 0.9]), np.array([0.1, 0.4, 0.4])
    ranks = np.log(np.arange(RANKS) + 1.0)
    weights = np.zeros((2, BIASES + FEATURES))
    weights[VALUE, NONE_SLOPE], weights[VALUE, SLOPES:BIASES] = 1.0, slopes
    biases = weights[VALUE, BIASES:].reshape(SOURCES, RANKS, AGES)
    biases += bases[:, None, None] + by_age[:, None, None] * np.arange(AGES)
    biases[:, :NO_SUCCESSORS] -= (by_rank[:, None] * ranks[:NO_SUCCESSORS])[:, :, None]
    biases[:, NO_SUCCESSORS] -= 0.75
    weights[SQUARES] = SQUARES_AT_FIRST
    return weights


@lean_kernel
def feature_of(source: Integer, rank: Integer, age: Integer) -> Integer:
    """Return the number of a feature."""
    return (source * RANKS + rank) * AGES + age


@lean_kernel
def source_of(feature: Integer) -> Integer:
    """Return the source of a candidate with this feature."""
    return feature // (RANKS * AGES)


@lean_kernel
def weigh(
    features: Int32Array, evidence: Float64Array, none: float, weights: Float64Array, chances: Float64Array
) -> None:
    """Write the probability of each candidate.

    Args:
        features: int32 [n].
        evidence: float64 [n], the logarithms of the shares.
        none: the logarithm of the share that is left.
        weights: as learned so far.
        chances: float64 [n], written.
    """
    values = weights[VALUE]
    none_score = values[NONE_BIAS] + values[NONE_SLOPE] * none
    highest = none_score
    for i in range(len(features)):
        feature = features[i]
        score = values[SLOPES + source_of(feature)] * evidence[i] + values[BIASES + feature]
        chances[i] = score
        highest = max(highest, score)
    total = math.exp(none_score - highest)
    for i in range(len(features)):
        chances[i] = math.exp(chances[i] - highest)
        total += chances[i]
    for i in range(len(features)):
        chances[i] /= total


@lean_kernel
def step(weights: Float64Array, place: Integer, gradient: float) -> None:
    """Move a weight."""
    weights[SQUARES, place] += gradient * gradient
    weights[VALUE, place] += LEARNING_RATE * gradient / math.sqrt(weights[SQUARES, place])


@lean_kernel
def learn_weights(
    tokens: Int32Array,
    features: Int32Array,
    evidence: Float64Array,
    none: float,
    chances: Float64Array,
    weights: Float64Array,
    token: Integer,
) -> None:
    """Move the weights towards having predicted the `token` that came; `chances` as they were weighed."""
    rest, missed = 1.0, 1.0
    for i in range(len(tokens)):
        rest -= chances[i]
        came = 1.0 if tokens[i] == token else 0.0
        missed -= came
        error = came - chances[i]
        step(weights, SLOPES + source_of(features[i]), error * evidence[i])
        step(weights, BIASES + features[i], error)
    error = missed - rest
    step(weights, NONE_SLOPE, error * none)
    step(weights, NONE_BIAS, error)
