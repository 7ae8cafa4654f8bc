"""What may come where no match and no successor names it: the candidates that are guessed."""

from typing import NamedTuple

import numpy as np

from lookahead.drafting.arrays import Int32Array, Integer
from lookahead.drafting.growth.candidates import is_among
from lookahead.drafting.growth.frequent import FREQUENT, TOKENS, UNKNOWN
from lookahead.drafting.growth.ranks import RankTable
from lookahead.drafting.growth.runner_ups import ALTERNATIVES, RUNNER_UPS
from lookahead.drafting.noise import LUCKY_TOKENS, Noise
from lookahead.jit import lean_kernel

GUESSED_RUNNER_UPS = RUNNER_UPS // 2
MAX_GUESSES = ALTERNATIVES + GUESSED_RUNNER_UPS + FREQUENT + LUCKY_TOKENS
_FEW_FREQUENT, _SOME_FREQUENT = 8, 16
_MIN_PROBABILITY_OF_FEW, _MIN_PROBABILITY_OF_SOME, _MIN_PROBABILITY_OF_ALL = 0.1, 0.2, 0.5
_MIN_PROBABILITY_OF_LUCKY = 0.2


class Guesses(NamedTuple):
    """What may come where no match and no successor names it.

    Attributes:
        alternatives: int32 [ALTERNATIVES], the model's other choices where a node's token was chosen.
        runner_ups: int32 [KEPT], what it nearly chose before, see `growth.runner_ups`.
        counts: int32 [2, COUNTED], the counts of the tokens of answers, see `growth.frequent`.
        ranks: The ranks of both.
        noise: What is known of the noise of the coming draws.
    """

    alternatives: Int32Array
    runner_ups: Int32Array
    counts: Int32Array
    ranks: RankTable
    noise: Noise


@lean_kernel
def frequent_for(probability: float) -> int:
    """Return how many frequent tokens are candidates at a node of this probability, if any guess is."""
    if probability < _MIN_PROBABILITY_OF_SOME:
        return _FEW_FREQUENT
    return _SOME_FREQUENT if probability < _MIN_PROBABILITY_OF_ALL else FREQUENT


@lean_kernel
def add_new(given: Int32Array, most: int, tokens: Int32Array, size: int) -> int:
    """Add the first of the given tokens that are not yet candidates; return how many candidates there are."""
    for rank in range(most):
        token = given[rank]
        if token == UNKNOWN:
            break
        if not is_among(tokens, 0, size, token):
            tokens[size] = token
            size += 1
    return size


@lean_kernel
def add_guesses(guesses: Guesses, probability: float, tokens: Int32Array, size: int) -> int:
    """Add guesses at a node of this probability; return how many candidates there are."""
    if probability < _MIN_PROBABILITY_OF_FEW:
        return size
    size = add_new(guesses.alternatives, ALTERNATIVES, tokens, size)
    size = add_new(guesses.runner_ups, GUESSED_RUNNER_UPS, tokens, size)
    return add_new(guesses.counts[TOKENS], frequent_for(probability), tokens, size)


@lean_kernel
def noise_slot(noise: Noise, depth: Integer) -> int:
    """Return the slot of the draw of what follows a node, or -1 where it is not known."""
    if depth >= noise.known:
        return -1
    return int((noise.first + depth) % len(noise.words))


@lean_kernel
def add_lucky(noise: Noise, depth: Integer, probability: float, tokens: Int32Array, size: int) -> int:
    """Add the tokens that the noise favours at a node; return how many candidates there are."""
    slot = noise_slot(noise, depth)
    if slot < 0 or probability < _MIN_PROBABILITY_OF_LUCKY:
        return size
    return add_new(noise.lucky[slot], LUCKY_TOKENS, tokens, size)


@lean_kernel
def place_of_lucky(lucky: Int32Array, token: Integer) -> int:
    """Return a token's place among those that the noise favours, or `LUCKY_TOKENS`."""
    wanted, found = np.int32(token), np.int32(0)
    for place in range(LUCKY_TOKENS):  # without a break, it runs in vectors
        found += np.int32(lucky[place] == wanted) * np.int32(place + 1)
    return int(found) - 1 if found > 0 else LUCKY_TOKENS
