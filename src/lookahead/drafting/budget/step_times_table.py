"""The step times of one model, looked up at each step by its rows and its context."""

import math

from lookahead.drafting.budget.step_times import StepTimes

_MIN_CONTEXT = 512
_DEFAULT_RIDGE_TOKENS = 16.0
"""Tokens at which computing takes as long as reading the weights, where nothing is known of a machine."""


class StepTimesTable:
    """The seconds of a model's forward passes, by total tokens, rows and context.

    A curve over the tokens of each row is kept for each bucket of rows and of context. The first one begins
    with the prior, each other one with the curve of the nearest bucket.

    Args:
        max_nodes: Maximum nodes of one row in a forward pass.
        ridge_tokens: As for `StepTimes.of_ridge`.
    """

    def __init__(self, max_nodes: int = 64, ridge_tokens: float = _DEFAULT_RIDGE_TOKENS) -> None:
        self._max_nodes = max_nodes
        self._ridge_tokens = ridge_tokens
        self._curves: dict[tuple[int, int], StepTimes] = {}

    def put(self, rows: int, context: int, times: StepTimes) -> None:
        """Set the curve of a bucket."""
        self._curves[rows_bucket(rows), context_bucket(context)] = times

    def curve(self, rows: int, context: int) -> StepTimes:
        """Return the curve over the tokens of each row, for this many rows and tokens of context."""
        bucket = (rows_bucket(rows), context_bucket(context))
        times = self._curves.get(bucket)
        if times is None:
            times = self._curves[bucket] = self._first_curve(bucket)
        return times

    def seconds(self, total_tokens: int, rows: int, context: int) -> float:
        """Return the seconds of a forward pass of `total_tokens` in all rows together."""
        return self.curve(rows, context).seconds_for(-(-total_tokens // rows))

    def _first_curve(self, bucket: tuple[int, int]) -> StepTimes:
        """Return the curve that a bucket begins with."""
        observed = [known for known, times in list(self._curves.items()) if times.is_observed]
        if not observed:
            return StepTimes.of_ridge(self._max_nodes, self._ridge_tokens).for_rows(bucket[0])

        def distance(known: tuple[int, int]) -> tuple[float, float]:
            return (abs(math.log2(known[0] / bucket[0])), abs(math.log2(known[1] / bucket[1])))

        nearest = min(observed, key=distance)
        return self._curves[nearest].for_rows(bucket[0] / nearest[0])


def context_bucket(tokens: int) -> int:
    """Return the smallest power of two that is at least 512 and not below `tokens`."""
    return max(_MIN_CONTEXT, 1 << max(0, tokens - 1).bit_length())


def rows_bucket(rows: int) -> int:
    """Return the smallest power of two that is not below `rows`."""
    return 1 << (rows - 1).bit_length()
