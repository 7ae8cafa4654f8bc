"""Decoding without a model: drafts whose nodes are accepted as often as they say, forwards that take T(n)."""

import heapq
from dataclasses import dataclass
from itertools import cycle

import numpy as np

from helpers.step_times import known_times
from lookahead.drafting.budget.policy import BudgetPolicy
from lookahead.drafting.budget.step_times import StepTimes

DEEPEST = 12
MAX_NODES = 64
_GRID = (1, 2, 4, 8, 16, 32, 64)


def times_of(curve) -> StepTimes:
    return known_times(_GRID, [curve(size) for size in _GRID])


def gpu(size):
    """Flat as far as the weights are what is waited for: a GPU."""
    return 0.020 + 1e-6 * size + 2e-4 * max(0, size - 40)


def cpu(size):
    """44, 45, 52, 67 and 100 ms at 1, 8, 16, 32 and 64 tokens: a few CPU cores."""
    return float(np.interp(size, [1, 8, 16, 32, 64], [0.044, 0.045, 0.052, 0.067, 0.100]))


def stairs(size):
    """Each 16 tokens begun cost as much as 16: a GPU that computes in tiles."""
    return 0.030 + 0.006 * ((size - 1) // 16)


def steep(size):
    """Nothing is idle, each token takes its time: drafting never pays."""
    return 0.010 * size


@dataclass(frozen=True)
class Text:
    """Text in parts; a part is so many tokens long, and its drafts are as good as one of these at random.

    A quality is the chance that the first guess is right and the chance of each token that follows a right
    one. There are two more guesses, a half and a quarter as probable, where the first leaves so much.
    """

    parts: tuple[tuple[int, tuple[tuple[float, float], ...]], ...]


REPETITIVE = Text(((400, ((0.95, 0.97), (0.8, 0.9))),))
ORDINARY = Text(((400, ((0.9, 0.9), (0.5, 0.6), (0.2, 0.4), (0.05, 0.1))),))
INCOMPRESSIBLE = Text(((400, ((0.03, 0.1), (0.01, 0.1))),))
MIXED = Text((*REPETITIVE.parts, *INCOMPRESSIBLE.parts, *ORDINARY.parts))


def draft(quality):
    """Path probabilities, best first, and for each node which guess it is and how deep."""
    first, onward = quality
    waiting = [(-chance, guess, 1) for guess, chance in enumerate(_guesses(first))]
    heapq.heapify(waiting)
    chances, places = [1.0], [(0, 0)]
    while waiting and len(chances) < MAX_NODES:
        chance, guess, depth = heapq.heappop(waiting)
        chances.append(-chance)
        places.append((guess, depth))
        if depth < DEEPEST:
            heapq.heappush(waiting, (chance * onward, guess, depth + 1))
    return np.array(chances), places


class Fixed:
    """Always the same size."""

    def __init__(self, size):
        self.size = size

    def choose(self, chances):
        return min(self.size, len(chances))

    def learn(self, nodes, tokens, seconds):
        pass


class Auto:
    """The policy, with its state."""

    def __init__(self, times, policy=BudgetPolicy(max_nodes=MAX_NODES)):  # noqa: B008  it is immutable
        self.policy, self.state = policy, policy.init(times)
        self.chosen = []

    def choose(self, chances):
        (size,) = self.policy.sizes(self.state, [chances])
        self.chosen.append(size)
        return size

    def learn(self, nodes, tokens, seconds):
        self.state = self.policy.adapt(self.state, nodes=nodes, tokens=tokens, step_seconds=seconds)


def rate(chooser, text, curve, *, tokens=10_000, seed=0, hiccups=0.005):
    """Tokens per second over a long text.

    The chooser learns what happens: tokens as chance has them, forwards that take their time give or take
    5%, now and then ten times. The rate counts what is to be expected of its choices.
    """
    generator = np.random.default_rng(seed)
    drafts = {quality: draft(quality) for _, qualities in text.parts for quality in qualities}
    emitted, spent = 0.0, 0.0
    for length, qualities in cycle(text.parts):
        end = emitted + length
        while emitted < end:
            quality = qualities[generator.integers(len(qualities))]
            chances, places = drafts[quality]
            size = chooser.choose(chances)
            seconds = curve(size) * np.exp(0.05 * generator.standard_normal())
            hiccup = generator.random() < hiccups
            accepted = _accepted(places[1:size], quality, generator)
            chooser.learn(size, 1 + accepted, 10 * seconds if hiccup else seconds)
            emitted += chances[:size].sum()
            spent += curve(size)
        if emitted >= tokens:
            return emitted / spent
    return None


def _guesses(first):
    return [first, min(first, 1 - first) / 2, min(first, 1 - first) / 4]


def _accepted(drafted, quality, generator):
    """How many drafted nodes are right: one of the guesses is, or none, and then it goes on for a while."""
    first, onward = quality
    right = int(np.searchsorted(np.cumsum(_guesses(first)), generator.random()))
    depth = 1
    while depth < DEEPEST and generator.random() < onward:
        depth += 1
    return sum(guess == right and level <= depth for guess, level in drafted)
