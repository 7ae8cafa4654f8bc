"""How many nodes of a draft to verify: as many as raise the long-run rate of tokens, measured, not tuned.

Verifying n nodes yields a known expectation of tokens and takes T(n) seconds (`StepTimes`). `BudgetPolicy`
maximises the tokens expected minus λ·T(n), λ being the running tokens per second; docs/concepts/budget.md
says why.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lookahead.drafting.arrays import Float64Array

_MAX_SURPRISE = 1.5
"""A step counts as at most so many times slower or faster than expected: a hiccup is one vote of many."""
_COMMON_WEIGHT = 0.1
"""How much of a surprise is put down to the whole machine, and moves every size alike."""
_LOCAL_WEIGHT = 0.05
"""How much of it is put down to this size, and moves the grid points around it."""
_LARGEST_NUMBER = 1e9
"""No forward has so many tokens or takes so many seconds."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """The seconds of a forward by how many tokens it has of each row; linear between the grid's points.

    More tokens never take less time: where they seem to, that is noise, and the points are averaged
    (pool adjacent violators).

    Args:
        sizes: tokens of each row in a forward, ascending from 1.
        seconds: what each took; on the object, never descending.

    Raises:
        ValueError: the sizes do not ascend from 1, or not each has its positive, finite seconds.
    """

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        ascends = bool(self.sizes) and all(a < b for a, b in zip(self.sizes, self.sizes[1:], strict=False))
        if not ascends or self.sizes[0] != 1 or len(self.sizes) != len(self.seconds):
            message = f"sizes={self.sizes} is not allowed; they ascend from 1, one for each of the seconds"
            raise ValueError(message)
        if not all(math.isfinite(seconds) and seconds > 0 for seconds in self.seconds):
            message = f"seconds={self.seconds} is not allowed; each is positive and finite"
            raise ValueError(message)
        object.__setattr__(self, "seconds", _never_descending(self.seconds))

    def seconds_for(self, size: int) -> float:
        """Return T(size); beyond the grid it rises as between the grid's last two points."""
        return float(self._at(np.array([size], np.float64))[0])

    def up_to(self, largest: int) -> Float64Array:
        """Return float64 [largest]: T(1), T(2), … T(largest)."""
        return self._at(np.arange(1, largest + 1, dtype=np.float64))

    def observed(self, size: int, seconds: float) -> "StepTimes":
        """Return the times as they are believed after a forward of `size` tokens took `seconds`.

        Most of a surprise moves all sizes alike, so that those not in use do not stay behind when the
        machine becomes slower or faster or the context grows; the rest bends the curve around `size`.

        Raises:
            ValueError: the seconds are negative or not a number.
        """
        expected = self.seconds_for(size)
        surprise = math.log(_counted_seconds(seconds, expected) / expected)
        moved = [
            held * math.exp(surprise * (_COMMON_WEIGHT + _LOCAL_WEIGHT * nearness))
            for held, nearness in zip(self.seconds, self._nearness(size), strict=True)
        ]
        return StepTimes(self.sizes, tuple(moved))

    def as_dict(self) -> dict[str, list[float]]:
        """Return the grid as JSON can hold it."""
        return {"sizes": list(self.sizes), "seconds": list(self.seconds)}

    @classmethod
    def from_dict(cls, values: object) -> "StepTimes":
        """Return what `as_dict` described.

        Raises:
            ValueError: it describes no step times.
        """
        sizes, seconds = _numbers(values, "sizes"), _numbers(values, "seconds")
        if not all(isinstance(size, int) for size in sizes):
            message = f"sizes={sizes} is not allowed; they are integers"
            raise ValueError(message)
        return cls(tuple(int(size) for size in sizes), tuple(float(value) for value in seconds))

    def _at(self, sizes: Float64Array) -> Float64Array:
        within = np.interp(sizes, self.sizes, self.seconds)
        beyond = np.maximum(sizes - self.sizes[-1], 0.0)
        result: Float64Array = within + beyond * self._last_slope
        return result

    @property
    def _last_slope(self) -> float:
        """Seconds a token beyond the grid; one known point alone shall make no draft seem cheap."""
        if len(self.sizes) == 1:
            return self.seconds[0]
        return (self.seconds[-1] - self.seconds[-2]) / (self.sizes[-1] - self.sizes[-2])

    def _nearness(self, size: int) -> list[float]:
        """Return how much each grid point says about T(size), as linear interpolation has it."""
        near = [0.0] * len(self.sizes)
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


@dataclass(frozen=True, slots=True)
class BudgetState:
    """What a `BudgetPolicy` knows; handed in and out, never changed.

    Attributes:
        times: how long forwards take.
        mean_tokens: tokens emitted by a step, over the last steps.
        mean_seconds: seconds of a step, over the same steps.
        mean_other_seconds: those of them that were spent outside the forward.
    """

    times: StepTimes
    mean_tokens: float
    mean_seconds: float
    mean_other_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class BudgetPolicy:
    """Chooses how much of each row's draft to verify; state goes in and comes out.

    Args:
        max_nodes: nodes of a row in one forward at most, its node 0 included.
        memory_steps: over how many steps, roughly, the rate of tokens is averaged: long enough to be
            steady, short enough to follow a text from its prose into its tables.

    Raises:
        ValueError: either is below 1.
    """

    max_nodes: int = 64
    memory_steps: int = 32

    def __post_init__(self) -> None:
        if self.max_nodes < 1 or self.memory_steps < 1:
            message = f"{self} is not allowed; max_nodes and memory_steps are at least 1"
            raise ValueError(message)

    def init(self, times: StepTimes) -> BudgetState:
        """Return the state before any step: the rate is that of plain steps."""
        return BudgetState(times, mean_tokens=1.0, mean_seconds=times.seconds_for(1))

    def tokens_per_second(self, state: BudgetState, rows: int = 1) -> float:
        """Return λ, the running rate of tokens, within what is plausible for so many rows.

        It is never below that of plain steps, which is always to be had: else a draft that disappoints
        would make the next one larger. It is never above that of forwards whose every node is emitted.
        """
        seconds = state.times.up_to(self.max_nodes) + state.mean_other_seconds
        rates = rows * np.arange(1, 1 + len(seconds)) / seconds
        return float(np.clip(state.mean_tokens / state.mean_seconds, rates[0], rates.max()))

    def sizes(self, state: BudgetState, probabilities_by_row: Sequence[Float64Array]) -> tuple[int, ...]:
        """Return how many nodes of each row's draft to verify, node 0 included.

        A forward is a rectangle, as many tokens for each row as for the row with the most: so there is one
        size for all rows, and a row has less only where its draft ends. Every size is looked at, since T
        has flat parts and steps; where none pays, each row gets its node 0 alone.

        Args:
            state: as `init` and `adapt` return it.
            probabilities_by_row: for each row float64 [n], its draft nodes' path probabilities, best
                first, so that any prefix is a tree.
        """
        longest = min(self.max_nodes, max(len(row) for row in probabilities_by_row))
        tokens = np.zeros(longest)
        for row in probabilities_by_row:
            tokens[: len(row)] += row[:longest]
        seconds = state.times.up_to(longest)
        gains = tokens.cumsum() - self.tokens_per_second(state, len(probabilities_by_row)) * seconds
        size = 1 + int(np.argmax(gains))
        return tuple(min(size, len(row)) for row in probabilities_by_row)

    def adapt(
        self, state: BudgetState, *, nodes: int, tokens: int, step_seconds: float, other_seconds: float = 0.0
    ) -> BudgetState:
        """Return the state after a step.

        Args:
            state: the one before.
            nodes: nodes verified in its forward for each row.
            tokens: tokens emitted by it, all rows together.
            step_seconds: seconds of its forward.
            other_seconds: seconds that it took besides, such as drafting. What is spent for each emitted
                token (sampling, processors) does not belong here: it is the same however they are drafted.

        Raises:
            ValueError: a time is negative or not a number.
        """
        times = state.times.observed(nodes, step_seconds)
        # A pause of the whole process says nothing about drafting, so one step counts for so much only.
        other_seconds = min(other_seconds, 2 * state.mean_other_seconds + times.seconds_for(1))
        seconds = _counted_seconds(step_seconds, state.times.seconds_for(nodes)) + other_seconds
        weight = 1 / self.memory_steps
        return replace(
            state,
            times=times,
            mean_tokens=state.mean_tokens + weight * (tokens - state.mean_tokens),
            mean_seconds=state.mean_seconds + weight * (seconds - state.mean_seconds),
            mean_other_seconds=state.mean_other_seconds + weight * (other_seconds - state.mean_other_seconds),
        )


def _counted_seconds(seconds: float, expected: float) -> float:
    """Return the seconds that a forward counts as: what it took, within reason of what was expected.

    Raises:
        ValueError: the seconds are negative or not a number.
    """
    if not seconds >= 0:
        message = f"seconds={seconds} is not allowed; a time is not negative"
        raise ValueError(message)
    return min(max(seconds, expected / _MAX_SURPRISE), expected * _MAX_SURPRISE)


def _never_descending(seconds: tuple[float, ...]) -> tuple[float, ...]:
    """Return the closest values, by least squares, that never descend."""
    blocks: list[tuple[float, int]] = []
    for value in seconds:
        mean, count = float(value), 1
        while blocks and blocks[-1][0] > mean:
            before, places = blocks.pop()
            mean, count = (before * places + mean * count) / (places + count), places + count
        blocks.append((mean, count))
    return tuple(mean for mean, count in blocks for _ in range(count))


def _numbers(values: object, name: str) -> list[int | float]:
    found = values.get(name) if isinstance(values, dict) else None
    if not isinstance(found, list) or not all(
        type(number) in (int, float) and abs(number) < _LARGEST_NUMBER for number in found
    ):
        message = f"{name}={found!r} is not allowed; give a list of numbers below {_LARGEST_NUMBER:g}"
        raise ValueError(message)
    return found
