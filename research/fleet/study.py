"""Which fleets are simulated, and their figures as rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from lookahead.bench.data.traces import Trace
from lookahead.config import DEFAULT_MEMORY_BYTES
from research.fleet.figures import figures
from research.fleet.library import Library
from research.fleet.routes import Route
from research.fleet.simulation import Fleet, FleetSettings
from research.fleet.traffic import TrafficSettings, make_traffic

MAX_RUNS = 8
"""How often a fleet runs, with one seed after another, if all its replicas together have few requests."""
ASSUMED = (
    "A question is a recorded trace whose rarer tokens are permuted, anew for each tenant and each turn.",
    "A request repeats an earlier question of its tenant with the set probability, and has the same answer.",
    "All earlier requests of a tenant, wherever they were served, are equally likely to be repeated.",
    "A tenant is a namespace: drafts come from its own answers alone.",
    "An answer is learned when its request arrives; nobody waits, and no replica is too busy.",
    "Memories begin empty, and all replicas publish to one board.",
)
"""What the figures rest on."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """All combinations of what is varied.

    Attributes:
        traffic: Of each replica; its `repeated` is varied.
        fleet: What is not varied.
        is_traffic_fixed: Whether `traffic` is that of the whole fleet, however large.
        replicas: How many.
        routes: What the router goes by.
        intervals: Seconds between two exchanges; None for never.
        repeated: Shares of requests that repeat a question.
        memory_bytes: Hard caps of each memory.
    """

    traffic: TrafficSettings
    fleet: FleetSettings
    is_traffic_fixed: bool = False
    replicas: Sequence[int] = (1,)
    routes: Sequence[Route] = (Route.RANDOM,)
    intervals: Sequence[float | None] = (None,)
    repeated: Sequence[float] = (0.0,)
    memory_bytes: Sequence[int] = (DEFAULT_MEMORY_BYTES,)

    def traffics(self) -> Iterator[tuple[int, TrafficSettings]]:
        """Yield each number of replicas and its traffic, for each share of repeated questions."""
        for share, count in product(self.repeated, self.replicas):
            times = 1 if self.is_traffic_fixed else count
            yield (
                count,
                replace(
                    self.traffic,
                    repeated=share,
                    requests_per_s=self.traffic.requests_per_s * times,
                    tenants=self.traffic.tenants * times,
                ),
            )

    def fleets(self, count: int) -> Iterator[FleetSettings]:
        """Yield the fleets of so many replicas; one alone has nothing to route or to exchange."""
        routes = self.routes if count > 1 else self.routes[:1]
        intervals = self.intervals if count > 1 else (None,)
        for memory, route, every in product(self.memory_bytes, routes, intervals):
            yield replace(self.fleet, replicas=count, route=route, exchange_s=every, memory_bytes=memory)

    def about(self) -> dict[str, Any]:
        """Return what was not varied, JSON-serialisable."""
        varied = {"repeated", "replicas", "route", "exchange_s", "memory_bytes"}
        settings = asdict(self.traffic) | asdict(self.fleet)
        kept = {name: value for name, value in settings.items() if name not in varied}
        return {**kept, "traffic_of": "the whole fleet" if self.is_traffic_fixed else "each replica"}


def run_study(
    study: Study, traces: Sequence[Trace], *, on_progress: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Simulate all fleets of a study; return a row of figures for each.

    Args:
        study: What is varied.
        traces: Recorded answers.
        on_progress: Called with a description of each fleet.
    """
    library = Library(traces, seed=study.traffic.seed)
    rows = []
    for count, settings in study.traffics():
        for fleet in study.fleets(count):
            on_progress(f"{count} replicas, {fleet.route}, exchange every {fleet.exchange_s} s")
            rows.append(_row(fleet, settings, library))
    return rows


def _row(settings: FleetSettings, asked: TrafficSettings, library: Library) -> dict[str, Any]:
    """Return the figures of a fleet; a small one runs until enough requests are measured."""
    fleets: list[Fleet] = []
    for run in range(MAX_RUNS):
        fleet = Fleet(settings, make_traffic(replace(asked, seed=asked.seed + run)), library)
        fleet.run()
        fleets.append(fleet)
        is_sampled = settings.replicas > settings.watched
        if is_sampled or sum(len(one.measured) for one in fleets) >= settings.measured:
            break
    varied = {
        "replicas": settings.replicas,
        "route": settings.route.value,
        "exchange_s": settings.exchange_s,
        "repeated": asked.repeated,
        "memory_bytes": settings.memory_bytes,
    }
    return {**varied, **figures(fleets)}
