"""Measure requests while they are served: when each arrived, and when which of its tokens came."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from lookahead.bench.report.uncertainty import quotient

_PERCENTILES = (50, 99)


class Timer(Protocol):
    """A clock that one can wait by."""

    def now(self) -> float:
        """Return the time in seconds."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class RealTimer:
    """The time of the machine, that of `time.perf_counter`."""

    def now(self) -> float:
        """Return the time in seconds."""
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


@dataclass
class Timeline:
    """What happened to a request; times are in seconds after the beginning of the round.

    Attributes:
        arrived_s: When it arrived.
        events: When tokens came, and how many.
        answer: The tokens.
    """

    arrived_s: float
    events: list[tuple[float, int]] = field(default_factory=list)
    answer: list[int] = field(default_factory=list)

    @property
    def first_token_s(self) -> float | None:
        """Seconds from the arrival to the first token; None without one."""
        return self.events[0][0] - self.arrived_s if self.events else None

    @property
    def waits_s(self) -> list[float]:
        """Seconds before each token after the first event: the event's time, divided by its tokens."""
        gaps = [(now - before, tokens) for (before, _), (now, tokens) in pairwise(self.events)]
        return [gap / tokens for gap, tokens in gaps for _ in range(tokens)]


class Recorder:
    """The timelines of a round, which begins when this is made.

    Args:
        arrivals: When each request arrives, in seconds after the beginning, in order.
        timer: The clock.

    Attributes:
        timelines: One for each request.
    """

    def __init__(self, arrivals: Sequence[float], timer: Timer) -> None:
        self.timelines = [Timeline(arrived_s) for arrived_s in arrivals]
        self._timer = timer
        self._begun_at = timer.now()

    @property
    def now_s(self) -> float:
        """Seconds since the beginning."""
        return self._timer.now() - self._begun_at

    def until_arrival_s(self, index: int) -> float:
        """Return how many seconds are left until a request arrives; 0 if it has."""
        return max(0.0, self.timelines[index].arrived_s - self.now_s)

    def wait_for(self, index: int) -> None:
        """Wait until a request arrives."""
        left = self.until_arrival_s(index)
        if left > 0:
            self._timer.sleep(left)

    def put(self, index: int, tokens: Sequence[int], *, at: float | None = None) -> None:
        """Note tokens of a request, which came now or at a time of the clock."""
        if len(tokens) > 0:
            timeline = self.timelines[index]
            timeline.events.append((self.now_s if at is None else at - self._begun_at, len(tokens)))
            timeline.answer.extend(tokens)


@dataclass(frozen=True)
class Passes:
    """The forward passes of a round.

    Attributes:
        forwards: Forward passes, those that read prompts included; None if they were not counted.
        acceptance_length: Tokens per forward pass and row, prompts left out; None without drafts.
    """

    forwards: int | None = None
    acceptance_length: float | None = None


@dataclass(frozen=True)
class Round:
    """One method's answers to all requests.

    Attributes:
        timelines: One for each request.
        passes: Its forward passes.
    """

    timelines: Sequence[Timeline]
    passes: Passes = Passes()

    @property
    def answers(self) -> list[list[int]]:
        """The tokens of each answer."""
        return [timeline.answer for timeline in self.timelines]

    @property
    def wall_s(self) -> float:
        """Seconds from the beginning to the last token."""
        return max((timeline.events[-1][0] for timeline in self.timelines if timeline.events), default=0.0)

    def figures(self) -> dict[str, Any]:
        """Return the figures of a report, JSON-serialisable; None for what was not measured."""
        tokens = sum(map(len, self.answers))
        first = [line.first_token_s for line in self.timelines if line.first_token_s is not None]
        waits = [wait for timeline in self.timelines for wait in timeline.waits_s]
        return {
            "wall_s": self.wall_s,
            "tokens": tokens,
            "tokens_per_second": quotient(tokens, self.wall_s),
            **_percentiles("first_token", first),
            **_percentiles("token", waits),
            "forwards": self.passes.forwards,
            "tokens_per_forward": quotient(tokens, self.passes.forwards),
            "acceptance_length": self.passes.acceptance_length,
        }


def _percentiles(name: str, seconds: Sequence[float]) -> dict[str, float | None]:
    """Return percentiles in milliseconds, under names as `token_p50_ms`."""
    values = np.percentile(np.array(seconds) * 1000, _PERCENTILES) if seconds else [None, None]
    return {
        f"{name}_p{share}_ms": None if value is None else float(value)
        for share, value in zip(_PERCENTILES, values, strict=True)
    }


Answer = Callable[[Sequence[int]], None]
"""Answers these requests together, and notes their tokens as they come."""


def serve_in_turn(recorder: Recorder, answer: Answer, *, most: int = 1) -> None:
    """Answer requests in the order of their arrival, up to `most` of those that have arrived together."""
    count, begin = len(recorder.timelines), 0
    while begin < count:
        recorder.wait_for(begin)
        end = begin + 1
        while end < min(count, begin + most) and recorder.until_arrival_s(end) == 0:
            end += 1
        answer(range(begin, end))
        begin = end
