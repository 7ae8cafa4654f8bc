"""Run a fleet through its requests, and count.

Arrivals and exchanges happen in the order of their times. A request is served at once: its answer is learned
when it arrives. Each replica exchanges every t seconds, from a first time of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np

from lookahead.bench.replay.replay import Tally
from lookahead.config import DEFAULT_MEMORY_BYTES
from lookahead.drafting.arrays import BoolArray, Int64Array
from lookahead.drafting.exchange.board import UpdateBoard
from lookahead.drafting.memory.journal import MAX_JOURNAL_TOKENS
from lookahead.errors import ConfigError
from research.fleet.library import Library
from research.fleet.replicas import SendingReplica, WatchedReplica
from research.fleet.routes import Route, namespace_of, routed
from research.fleet.traffic import Traffic

_ARRIVAL, _EXCHANGE = 0, 1


@dataclass(frozen=True, kw_only=True)
class FleetSettings:
    """How the fleet is set up, and what of it is measured.

    Attributes:
        replicas: How many there are.
        route: What the router goes by.
        exchange_s: Seconds between two exchanges of a replica; None for never.
        memory_bytes: Hard cap of each memory.
        board_tokens: The most tokens on the board; the oldest updates are lost beyond.
        draft_tokens: Maximum number of draft tokens, without the current one.
        prefix_tokens: How many tokens of a prompt the route by prefix goes by.
        watched: How many replicas have a memory, at most.
        measured: How many requests are measured, at most.
        warm_up_s: Only requests after so many seconds are measured.

    Raises:
        ConfigError: A setting is out of range.
    """

    replicas: int = 1
    route: Route = Route.RANDOM
    exchange_s: float | None = None
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    board_tokens: int = MAX_JOURNAL_TOKENS
    draft_tokens: int = 16
    prefix_tokens: int = 64
    watched: int = 4
    measured: int = 240
    warm_up_s: float = 0.0

    def __post_init__(self) -> None:
        counts = ("replicas", "board_tokens", "draft_tokens", "prefix_tokens", "watched", "measured")
        for name in counts:
            if getattr(self, name) < 1:
                message = f"{name}={getattr(self, name)} is not allowed; give an integer of at least 1"
                raise ConfigError(message)
        if self.measured < self.watched:
            message = (
                f"measured={self.measured} is fewer than watched={self.watched}; give at least one for each"
            )
            raise ConfigError(message)
        if self.exchange_s is not None and not 0 < self.exchange_s < np.inf:
            message = f"exchange_s={self.exchange_s} is not allowed; give seconds above 0, or None for never"
            raise ConfigError(message)


class Fleet:
    """Replicas behind a router.

    Args:
        settings: How it is set up.
        traffic: The requests.
        library: Their texts.

    Attributes:
        settings: How it is set up.
        traffic: The requests.
        replica_of: int64 [requests], who serves each.
        watched: The replicas with a memory, by number.
        senders: The others, by number; none if nothing is exchanged.
        measured: What was measured, by request.

    Raises:
        ConfigError: No request arrives after the warm-up.
    """

    def __init__(self, settings: FleetSettings, traffic: Traffic, library: Library) -> None:
        self.settings, self.traffic, self._library = settings, traffic, library
        self.replica_of = routed(
            settings.route,
            traffic,
            library,
            replicas=settings.replicas,
            prefix_tokens=settings.prefix_tokens,
        )
        self._is_measured, watched = _sample(settings, traffic, self.replica_of)
        board = None if settings.exchange_s is None else UpdateBoard(settings.board_tokens)
        self.watched = {
            number: WatchedReplica(
                board, memory_bytes=settings.memory_bytes, draft_tokens=settings.draft_tokens
            )
            for number in watched
        }
        self.senders: dict[int, SendingReplica] = {}
        if board is not None:
            others = (number for number in range(settings.replicas) if number not in self.watched)
            self.senders = {number: SendingReplica(board) for number in others}
        self.measured: dict[int, Tally] = {}

    def run(self) -> None:
        """Serve all requests."""
        for kind, number in self._events():
            if kind == _ARRIVAL:
                self._serve(number)
            else:
                self._member(number).exchange()

    def settle(self) -> None:
        """Let all replicas exchange until nothing is new."""
        for _ in range(2):
            for number in range(self.settings.replicas):
                self._member(number).exchange()

    @property
    def may_be_measured(self) -> BoolArray:
        """Whether each request arrives after the warm-up, bool [requests]."""
        return self.traffic.times >= self.settings.warm_up_s

    def about(self, index: int) -> tuple[str, int]:
        """Return a request's category, and the tokens of its answer after the first."""
        return self._library.about(int(self.traffic.tenants[index]), int(self.traffic.questions[index]))

    def _member(self, number: int) -> WatchedReplica | SendingReplica:
        return self.watched.get(number) or self.senders[number]

    def _serve(self, index: int) -> None:
        """Serve one request; where nobody is to know of it, do nothing."""
        number = int(self.replica_of[index])
        tenant, question = int(self.traffic.tenants[index]), int(self.traffic.questions[index])
        watched = self.watched.get(number)
        if watched is None:
            if number in self.senders:
                self.senders[number].learn(self._library.answer(tenant, question), namespace_of(tenant))
            return
        trace = self._library.trace(tenant, question)
        if self._is_measured[index]:
            self.measured[index] = watched.measure(trace, namespace_of(tenant))
        else:
            watched.learn(trace, namespace_of(tenant))

    def _events(self) -> Iterator[tuple[int, int]]:
        """Yield arrivals with the request's number, and exchanges with the replica's, as time goes on."""
        duration, every = self.traffic.settings.duration_s, self.settings.exchange_s
        times, numbers = self.traffic.times, np.arange(len(self.traffic))
        kinds = np.full(len(numbers), _ARRIVAL)
        if every is not None:
            first = np.random.default_rng([self.traffic.settings.seed, 2]).uniform(
                0, every, self.settings.replicas
            )
            exchanges = first[:, None] + every * np.arange(ceil(duration / every))
            replicas, rounds = np.nonzero(exchanges < duration)
            times = np.concatenate([times, exchanges[replicas, rounds]])
            numbers = np.concatenate([numbers, replicas])
            kinds = np.concatenate([kinds, np.full(len(replicas), _EXCHANGE)])
        order = np.argsort(times, kind="stable")
        yield from zip(kinds[order].tolist(), numbers[order].tolist(), strict=True)


def _sample(settings: FleetSettings, traffic: Traffic, replica_of: Int64Array) -> tuple[BoolArray, list[int]]:
    """Return which requests are measured, and the numbers of the replicas that are watched.

    Where not all replicas are watched, they are drawn in proportion to their requests, and as many requests
    are measured for each draw: so each request has the same chance, on a busy replica and on an idle one.

    Raises:
        ConfigError: No request arrives after the warm-up.
    """
    rng = np.random.default_rng([traffic.settings.seed, 3])
    candidates = np.flatnonzero(traffic.times >= settings.warm_up_s)
    if len(candidates) == 0:
        message = f"no request arrives after a warm-up of {settings.warm_up_s} s; give a shorter one"
        raise ConfigError(message)
    is_measured = np.zeros(len(traffic), np.bool_)
    shuffled = rng.permutation(candidates)
    if settings.replicas <= settings.watched:
        is_measured[shuffled[: settings.measured]] = True
        return is_measured, list(range(settings.replicas))
    drawn = replica_of[rng.choice(candidates, settings.watched)]
    numbers, draws = np.unique(drawn, return_counts=True)
    for number, count in zip(numbers.tolist(), draws.tolist(), strict=True):
        of_replica = shuffled[replica_of[shuffled] == number]
        is_measured[of_replica[: count * settings.measured // settings.watched]] = True
    return is_measured, numbers.tolist()
