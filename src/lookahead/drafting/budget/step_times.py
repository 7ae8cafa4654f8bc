"""How long forward passes take by their tokens: a prior, corrected by every step."""

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Self

import numpy as np

from lookahead.drafting.arrays import Float64Array

_MAX_SURPRISE = math.log(1.5)
"""Once times are known, a step counts as at most 1.5 times slower or faster: one hiccup moves little."""
_STEP_NOISE = 0.1**2
"""Variance of the logarithm of one step's seconds."""
_UNKNOWN_LEVEL = 4.0**2
"""Variance of the logarithm of T(1) before the first step: nothing is known of it."""
_SIMILAR_LEVEL = 0.3**2
"""The same variance where other rows or another context were observed."""
_LEVEL_DRIFT = 0.01**2
"""Variance that a step adds to it: machines become busier, contexts grow."""
_MAX_LEVEL_VARIANCE = 0.15**2
"""Beyond it, T(1) is not known well enough to say what drafts cost."""
_RIDGE = 0.7**2
"""Variance of the logarithm of the ridge: it is known but for a factor of two."""
_OCTAVE = 0.15**2
"""Variance of ln T(2n)/T(n) beyond that, since no processor is so simple."""
_SHAPE_MEMORY = 1 - 1 / 512
"""A step takes the curve so much back to the shape of its prior, so that no size is shunned for ever."""


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The sizes at which step times are learned, and what is believed of them before the first step.

    A forward pass reads the weights, which takes the same time for any number of tokens, and computes, which
    takes as long as reading at the ridge. The two overlap in part: T(n) ~ √(1 + (n / ridge)²).

    Args:
        sizes: Tokens per row, ascending from 1.
        ridge_tokens: Tokens per row at which computing takes as long as reading the weights.

    Attributes:
        fading: float64 [m, m], what a step leaves of each entry of the covariance.
        drift: float64 [m, m], what a step adds to it.
    """

    sizes: tuple[int, ...]
    ridge_tokens: float
    fading: Float64Array = field(init=False)
    drift: Float64Array = field(init=False)

    def __post_init__(self) -> None:
        fades = np.full(len(self.sizes), _SHAPE_MEMORY)
        fades[0] = 1.0
        drift = self.covariance(_LEVEL_DRIFT / (1 - _SHAPE_MEMORY**2)) * (1 - _SHAPE_MEMORY**2)
        object.__setattr__(self, "fading", np.outer(fades, fades))
        object.__setattr__(self, "drift", drift)

    @staticmethod
    @lru_cache(maxsize=256)
    def of(max_size: int, ridge_tokens: float) -> "Grid":
        """Return the grid up to a size: powers of two, the middles between them from 4 on, and that size."""
        powers = [1 << exponent for exponent in range(max_size.bit_length())]
        middles = [power + power // 2 for power in powers if power >= 4]
        sizes = sorted(size for size in {*powers, *middles, max_size} if size <= max_size)
        return Grid(tuple(sizes), ridge_tokens)

    def shape(self) -> Float64Array:
        """Return float64 [m], ln T(n) / T(0) of each size."""
        return np.log(np.hypot(1.0, np.array(self.sizes) / self.ridge_tokens))

    def covariance(self, level: float) -> Float64Array:
        """Return float64 [m, m], what is not known before the first step: of the level, and of the bends.

        The ridge is not known exactly, which bends all sizes beyond it. The rest of a bend grows with the
        size as a random walk over its logarithm does: it is that of the point before it and some more.
        """
        sizes = np.array(self.sizes, np.float64)
        octaves = np.log2(sizes)
        of_ridge = (sizes / self.ridge_tokens) ** 2
        of_ridge /= 1.0 + of_ridge
        of_ridge -= of_ridge[0]  # the bend of one token is the level
        covariance: Float64Array = _OCTAVE * np.minimum.outer(octaves, octaves)
        covariance += _RIDGE * np.outer(of_ridge, of_ridge)
        covariance[0, 0] = level
        return covariance

    def nearness(self, size: float) -> Float64Array:
        """Return float64 [m], the weight of each point in T(size), as in linear interpolation."""
        near = np.zeros(len(self.sizes))
        right = bisect_left(self.sizes, size)
        if right == len(self.sizes):
            near[-1] = 1.0
        elif self.sizes[right] == size:
            near[right] = 1.0
        else:
            below, above = self.sizes[right - 1], self.sizes[right]
            near[right] = (size - below) / (above - below)
            near[right - 1] = 1.0 - near[right]
        return near


@dataclass(frozen=True, slots=True, eq=False)
class StepTimes:
    """The seconds of a forward pass by its tokens per row; linear between the points of a grid.

    ln T is the sum of a prior, a level, which is that of T(1), and a bend at each other point of the grid: by
    how much the curve's shape differs from the prior. Level and bends are learned from every step by a Kalman
    filter.

    Args:
        grid: The points, and what is believed of the curve's shape.
        prior: float64 [m], ln T of each size as believed at first.
        state: float64 [m], what was learned: the level beyond the prior's, then the bend of each size but 1.
        covariance: float64 [m, m], of the state.
        is_observed: Whether any step was observed; before, only ratios of the seconds mean anything.

    Attributes:
        seconds: The seconds of each size. They never descend: if steps say so, it is noise, and averaged.
    """

    grid: Grid
    prior: Float64Array
    state: Float64Array
    covariance: Float64Array
    is_observed: bool = False
    seconds: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        logarithms = self.prior + self.state[0]
        logarithms[1:] += self.state[1:]
        object.__setattr__(self, "seconds", never_descending(np.exp(logarithms).tolist()))

    @classmethod
    def of_ridge(cls, max_size: int, ridge_tokens: float) -> Self:
        """Return the step times of a machine before its first step."""
        grid = Grid.of(max_size, ridge_tokens)
        return cls._begun(grid, grid.shape(), _UNKNOWN_LEVEL)

    @classmethod
    def _begun(cls, grid: Grid, prior: Float64Array, level: float, *, is_observed: bool = False) -> Self:
        return cls(grid, prior, np.zeros(len(prior)), grid.covariance(level), is_observed)

    @property
    def is_level_known(self) -> bool:
        """Whether T(1) is known well enough to compare other sizes with it."""
        return self.is_observed and float(self.covariance[0, 0]) < _MAX_LEVEL_VARIANCE

    def seconds_for(self, size: float) -> float:
        """Return T(size); beyond the grid, it has the slope of the last two points."""
        return float(self.at(np.array([size], np.float64))[0])

    def up_to(self, largest: int) -> Float64Array:
        """Return float64 [largest]: T(1), T(2), … T(largest)."""
        return self.at(np.arange(1, largest + 1, dtype=np.float64))

    def at(self, sizes: Float64Array) -> Float64Array:
        """Return T at sizes, which need not be whole numbers where rows differ in their tokens."""
        points = self.grid.sizes
        within = np.interp(sizes, points, self.seconds)
        if len(points) == 1:  # a single point: each token counts as a full step
            slope = self.seconds[0]
        else:
            slope = (self.seconds[-1] - self.seconds[-2]) / (points[-1] - points[-2])
        result: Float64Array = within + np.maximum(sizes - points[-1], 0.0) * slope
        return result

    def observed(self, size: float, seconds: float) -> "StepTimes":
        """Return the times after a forward pass of `size` tokens per row took `seconds`.

        Raises:
            ValueError: The seconds are negative or not a number.
        """
        if not seconds >= 0:
            message = f"seconds={seconds} is not allowed; give a time that is not negative"
            raise ValueError(message)
        weights = self.grid.nearness(size)
        expected = float(weights @ (self.prior + self.state))
        expected += float(self.state[0]) * (1.0 - weights[0])  # the level counts at every size
        weights[0] = 1.0
        covariance = self.covariance * self.grid.fading + self.grid.drift
        shared = covariance @ weights
        variance = float(weights @ shared) + _STEP_NOISE
        surprise = math.log(max(seconds, 1e-9)) - expected
        if self.is_observed:
            largest = max(_MAX_SURPRISE, 2 * math.sqrt(variance))
            surprise = min(max(surprise, -largest), largest)
        gain = shared / variance
        state = self.state * _SHAPE_MEMORY
        state[0] = self.state[0]
        state += gain * surprise
        return StepTimes(self.grid, self.prior, state, covariance - gain[:, None] * shared, is_observed=True)

    def for_rows(self, ratio: float) -> "StepTimes":
        """Return what is believed of `ratio` times as many rows: only the total of tokens matters."""
        seconds = self.at(np.array(self.grid.sizes, np.float64) * ratio)
        grid = Grid(self.grid.sizes, self.grid.ridge_tokens / ratio)
        level = _SIMILAR_LEVEL if self.is_observed else _UNKNOWN_LEVEL
        return self._begun(grid, np.log(seconds), level, is_observed=self.is_observed)


def counted_seconds(seconds: float, expected: float) -> float:
    """Return the seconds of a forward pass, clipped to a range around the expected seconds.

    Raises:
        ValueError: The seconds are negative or not a number.
    """
    if not seconds >= 0:
        message = f"seconds={seconds} is not allowed; give a time that is not negative"
        raise ValueError(message)
    return min(max(seconds, expected / math.exp(_MAX_SURPRISE)), expected * math.exp(_MAX_SURPRISE))


def never_descending(seconds: list[float]) -> tuple[float, ...]:
    """Return the closest values, by least squares, that never descend (pool adjacent violators).

    learned      1: 20 ms   8: 24 ms   16: 22 ms   32: 30 ms
    kept         1: 20 ms   8: 23 ms   16: 23 ms   32: 30 ms
    """
    blocks: list[tuple[float, int]] = []
    for value in seconds:
        mean, count = value, 1
        while blocks and blocks[-1][0] > mean:
            before, places = blocks.pop()
            mean, count = (before * places + mean * count) / (places + count), places + count
        blocks.append((mean, count))
    return tuple(mean for mean, count in blocks for _ in range(count))
