"""How long forward passes take, by rows, context and tokens."""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lookahead.drafting.arrays import Float64Array

_MAX_SURPRISE = 1.5
"""A step counts as at most this factor slower or faster than expected, so that one hiccup matters little."""
_COMMON_WEIGHT = 0.1
"""Share of a surprise that is attributed to the machine and moves all sizes alike."""
_LOCAL_WEIGHT = 0.05
"""Share of it that is attributed to this size and moves the grid points around it."""
_SMALLEST_CONTEXT = 512
_LARGEST_NUMBER = 1e9
"""Upper bound on the tokens and seconds of a forward pass, to reject damaged files."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """The seconds of a forward pass by its tokens per row; linear between the points of a grid.

    More tokens never take less time: if a measurement says so, it is noise, and the points are averaged
    (pool adjacent violators).

        measured     1: 20 ms   8: 24 ms   16: 22 ms   32: 30 ms
        kept         1: 20 ms   8: 23 ms   16: 23 ms   32: 30 ms

    Args:
        sizes: Tokens per row, ascending from 1.
        seconds: The seconds of each size; the object's never descend.

    Raises:
        ValueError: The sizes do not ascend from 1, or a size has no positive, finite seconds.
    """

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        ascends = bool(self.sizes) and all(a < b for a, b in zip(self.sizes, self.sizes[1:], strict=False))
        if not ascends or self.sizes[0] != 1 or len(self.sizes) != len(self.seconds):
            message = f"sizes={self.sizes} is not allowed; give ascending sizes from 1, as many as seconds"
            raise ValueError(message)
        if not all(math.isfinite(seconds) and seconds > 0 for seconds in self.seconds):
            message = f"seconds={self.seconds} is not allowed; give positive, finite numbers"
            raise ValueError(message)
        object.__setattr__(self, "seconds", _never_descending(self.seconds))

    def seconds_for(self, size: float) -> float:
        """Return T(size); beyond the grid, it has the slope of the last two points."""
        return float(self.at(np.array([size], np.float64))[0])

    def up_to(self, largest: int) -> Float64Array:
        """Return float64 [largest]: T(1), T(2), … T(largest)."""
        return self.at(np.arange(1, largest + 1, dtype=np.float64))

    def observed(self, size: float, seconds: float) -> "StepTimes":
        """Return the times, updated after a forward pass of `size` tokens per row took `seconds`.

        Most of a surprise moves all sizes alike, so that unused sizes stay current when the machine becomes
        slower or faster or the context grows; the rest bends the curve around `size`.

        Raises:
            ValueError: The seconds are negative or not a number.
        """
        expected = self.seconds_for(size)
        surprise = math.log(counted_seconds(seconds, expected) / expected)
        moved = [
            held * math.exp(surprise * (_COMMON_WEIGHT + _LOCAL_WEIGHT * nearness))
            for held, nearness in zip(self.seconds, self._nearness(size), strict=True)
        ]
        return StepTimes(self.sizes, tuple(moved))

    def for_rows(self, ratio: float) -> "StepTimes":
        """Return the times of `ratio` times as many rows, assuming that only the total of tokens matters."""
        seconds = self.at(np.array(self.sizes, np.float64) * ratio)
        return StepTimes(self.sizes, tuple(seconds.tolist()))

    def as_dict(self) -> dict[str, list[float]]:
        """Return the grid as JSON values."""
        return {"sizes": list(self.sizes), "seconds": list(self.seconds)}

    @classmethod
    def from_dict(cls, values: object) -> "StepTimes":
        """Return the step times that `as_dict` returned as `values`.

        Raises:
            ValueError: The values are no step times.
        """
        sizes, seconds = _numbers(values, "sizes"), _numbers(values, "seconds")
        if not all(isinstance(size, int) for size in sizes):
            message = f"sizes={sizes} is not allowed; give integers"
            raise ValueError(message)
        return cls(tuple(int(size) for size in sizes), tuple(float(value) for value in seconds))

    def at(self, sizes: Float64Array) -> Float64Array:
        """Return T at sizes, which need not be whole numbers where rows differ in their tokens."""
        within = np.interp(sizes, self.sizes, self.seconds)
        beyond = np.maximum(sizes - self.sizes[-1], 0.0)
        result: Float64Array = within + beyond * self._last_slope
        return result

    @property
    def _last_slope(self) -> float:
        """Seconds per token beyond the grid; with a single point, each token counts as a full step."""
        if len(self.sizes) == 1:
            return self.seconds[0]
        return (self.seconds[-1] - self.seconds[-2]) / (self.sizes[-1] - self.sizes[-2])

    def _nearness(self, size: float) -> list[float]:
        """Return the weight of each grid point in T(size), as in linear interpolation."""
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


def context_bucket(tokens: int) -> int:
    """Return the smallest power of two that is at least 512 and not below `tokens`."""
    return max(_SMALLEST_CONTEXT, 1 << max(0, tokens - 1).bit_length())


def rows_bucket(rows: int) -> int:
    """Return the smallest power of two that is not below `rows`."""
    return 1 << (rows - 1).bit_length()


class StepTimesTable:
    """The seconds of a model's forward passes, looked up at each step by total tokens, rows and context.

    A curve over the tokens of each row is kept for each bucket of rows and of context. A bucket that was
    never measured begins with what is on disk, else with the curve of the nearest bucket.

    Args:
        load: Returns the curve on disk of a bucket of rows and of context; None if there is none.
    """

    def __init__(self, load: Callable[[int, int], StepTimes | None] = lambda _rows, _context: None) -> None:
        self._load = load
        self._curves: dict[tuple[int, int], StepTimes] = {}
        self._estimates: set[tuple[int, int]] = set()  # buckets that began with another bucket's curve

    def __bool__(self) -> bool:
        return bool(self._curves)

    def knows(self, rows: int, context: int) -> bool:
        """Return whether the bucket of this many rows and context tokens was measured or loaded."""
        bucket = (rows_bucket(rows), context_bucket(context))
        return bucket in self._curves and bucket not in self._estimates

    def put(self, rows: int, context: int, times: StepTimes) -> None:
        """Set the measured curve of a bucket."""
        self.adapt(rows, context, times)
        self._estimates.discard((rows_bucket(rows), context_bucket(context)))

    def adapt(self, rows: int, context: int, times: StepTimes) -> None:
        """Set the curve of a bucket after a step; an estimate stays one."""
        self._curves[rows_bucket(rows), context_bucket(context)] = times

    def curve(self, rows: int, context: int) -> StepTimes | None:
        """Return the curve over the tokens of each row of a bucket; None if no curve is known at all."""
        bucket = (rows_bucket(rows), context_bucket(context))
        times = self._curves.get(bucket)
        if times is None and self._curves:
            times = self._load(*bucket)
            if times is None:
                times = self._nearest(bucket)
                self._estimates.add(bucket)
            self._curves[bucket] = times
        return times

    def seconds(self, total_tokens: int, rows: int, context: int) -> float | None:
        """Return the seconds of a forward pass of `total_tokens` in all rows together; None if unknown."""
        times = self.curve(rows, context)
        return None if times is None else times.seconds_for(-(-total_tokens // rows))

    def _nearest(self, bucket: tuple[int, int]) -> StepTimes:
        """Return the curve of the nearest bucket, converted to this bucket's rows."""

        def distance(known: tuple[int, int]) -> tuple[float, float]:
            return (abs(math.log2(known[0] / bucket[0])), abs(math.log2(known[1] / bucket[1])))

        nearest = min(list(self._curves), key=distance)  # a copy: other threads may add buckets
        return self._curves[nearest].for_rows(bucket[0] / nearest[0])


def counted_seconds(seconds: float, expected: float) -> float:
    """Return the seconds of a forward pass, clipped to a range around the expected seconds.

    Raises:
        ValueError: The seconds are negative or not a number.
    """
    if not seconds >= 0:
        message = f"seconds={seconds} is not allowed; give a time that is not negative"
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
