"""The figures of a fleet that has run.

Few requests are measured, of the many that arrive. Of what category each is, and whether it repeats a
question, is known of all. So each kind counts as much as it has tokens among all requests, not among those
that were measured:

    kind          tokens of all   measured: passes per token   passes
    qa, new             60,000    x 0.40                     = 24,000
    qa, repeated        30,000    x 0.10                     =  3,000
    together            90,000                                 27,000    3.33 tokens per forward pass

Where all requests are measured, this is what they had.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np

from lookahead.bench.replay.replay import Tally
from research.fleet.simulation import Fleet


@dataclass(frozen=True)
class Kind:
    """What requests have in common."""

    category: str
    is_repeated: bool


@dataclass
class Sample:
    """Requests of all kinds, and those of them that were measured.

    Attributes:
        tokens: Of all requests, by kind.
        tallies: Those that were measured, by kind.
    """

    tokens: Counter[Kind] = field(default_factory=Counter)
    tallies: dict[Kind, list[Tally]] = field(default_factory=lambda: defaultdict(list))

    def of(self, *, repeated: bool) -> "Sample":
        """Return only the requests that repeat a question, or only the others."""
        kinds = [kind for kind in self.tokens if kind.is_repeated == repeated]
        return Sample(
            Counter({kind: self.tokens[kind] for kind in kinds}),
            {kind: self.tallies[kind] for kind in kinds if kind in self.tallies},
        )

    @property
    def repeated_share(self) -> float:
        """The share of tokens that are of repeated questions."""
        return self.of(repeated=True).tokens.total() / max(1, self.tokens.total())

    def tokens_per_forward(self) -> tuple[float | None, float | None]:
        """Return the tokens per forward pass and their standard error; None for what is unknown.

        Kinds of which nothing was measured are left out; so are their errors where only one request was.
        """
        measured = {kind: _passes_per_token(self.tallies.get(kind, [])) for kind in self.tokens}
        known = {kind: found for kind, found in measured.items() if found is not None}
        tokens = sum(self.tokens[kind] for kind in known)
        if not tokens:
            return None, None
        shares = {kind: self.tokens[kind] / tokens for kind in known}
        passes = sum(shares[kind] * mean for kind, (mean, _) in known.items())
        variance = sum(shares[kind] ** 2 * of_kind for kind, (_, of_kind) in known.items())
        return round(1 / passes, 4), round(sqrt(variance) / passes**2, 4)


def figures(fleets: Sequence[Fleet]) -> dict[str, Any]:
    """Return the figures of fleets of the same settings, together, as one JSON-serialisable row."""
    sample = _sample_of(fleets)
    overall, error = sample.tokens_per_forward()
    return {
        "runs": len(fleets),
        "requests": sum(len(fleet.traffic) for fleet in fleets),
        "requests_measured": sum(len(fleet.measured) for fleet in fleets),
        "repeated_share": round(sample.repeated_share, 4),
        "tokens_per_forward": overall,
        "standard_error": error,
        "of_new": sample.of(repeated=False).tokens_per_forward()[0],
        "of_repeated": sample.of(repeated=True).tokens_per_forward()[0],
        **_costs(fleets),
    }


def _sample_of(fleets: Iterable[Fleet]) -> Sample:
    """Return the requests that might have been measured."""
    sample = Sample()
    for fleet in fleets:
        for index in np.flatnonzero(fleet.may_be_measured).tolist():
            category, tokens = fleet.about(index)
            kind = Kind(category, bool(fleet.traffic.is_repeated[index]))
            sample.tokens[kind] += tokens
            if index in fleet.measured:
                sample.tallies[kind].append(fleet.measured[index])
    return sample


def _costs(fleets: Sequence[Fleet]) -> Mapping[str, Any]:
    """Return what memories and exchange took, of each replica, and how uneven the load was."""
    replicas, seconds = fleets[0].settings.replicas, fleets[0].traffic.settings.duration_s
    watched = [one for fleet in fleets for one in fleet.watched.values()]
    received = [one.way for one in watched if one.way is not None]
    sent = [*received, *(one.way for fleet in fleets for one in fleet.senders.values())]
    offered = sum(way.offered for way in received)
    loads = [np.bincount(fleet.replica_of, minlength=replicas) for fleet in fleets]
    held = [sum(one.memory.namespaces.values()) for one in watched]
    return {
        "replicas_watched": len(watched),
        "memory_tokens": round(sum(held) / len(watched)),
        "sent_bytes_per_s": round(sum(way.sent_bytes for way in sent) / (replicas * len(fleets) * seconds)),
        "received_bytes_per_s": round(sum(way.received_bytes for way in received) / (len(watched) * seconds)),
        "lost_share": round(sum(way.lost for way in received) / offered, 4) if offered else 0.0,
        "busiest_load": round(float(np.mean([load.max() / load.mean() for load in loads])), 2),
    }


def _passes_per_token(tallies: Sequence[Tally]) -> tuple[float, float] | None:
    """Return the forward passes per token of requests drawn at random, and the variance of that figure."""
    tokens = sum(tally.tokens for tally in tallies)
    if not tokens:
        return None
    mean = sum(tally.steps for tally in tallies) / tokens
    if len(tallies) == 1:
        return mean, 0.0
    squares = sum((tally.steps - mean * tally.tokens) ** 2 for tally in tallies)
    return mean, squares * len(tallies) / (len(tallies) - 1) / tokens**2
