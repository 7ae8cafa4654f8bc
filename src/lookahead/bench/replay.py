"""Replay: recorded answers are fed back token by token, and drafts are judged without a model.

A draft made before a token is accepted as far as the recording goes the same way, which is what greedy
verification would have done. Nothing but the tokens before a draft is ever shown to what drafts.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

import numpy as np

from lookahead.bench.traces import Trace, without_loop
from lookahead.drafting.tree import DraftTree, Int32Array


class ReplayedDrafter(Protocol):
    """Something that drafts for one request at a time."""

    def begin(self, prompt_ids: Int32Array) -> None:
        """Open a request."""

    def propose(self, draft_tokens: int, most_levels: int) -> DraftTree:
        """Return a draft under the last token learned: at most so many tokens beside it, and so deep."""

    def learn(self, token_ids: Int32Array) -> None:
        """See the next tokens of the answer."""

    def end(self) -> None:
        """Close the request."""

    @property
    def nbytes(self) -> int:
        """Bytes of what is remembered from request to request; 0 where nothing is."""


@dataclass
class Tally:
    """Tokens after the first of each answer, and the forwards they would have taken."""

    tokens: int = 0
    steps: int = 0

    @property
    def mean_acceptance_length(self) -> float | None:
        """Tokens a forward; None where there was no forward."""
        return self.tokens / self.steps if self.steps else None


@dataclass
class ReplayResult:
    """What a replay measured.

    Attributes:
        overall: all traces.
        by_category: each category's.
        halves: traces at even and at odd places, so that what is tuned on one is judged on the other.
        before_loops: steps taken before an answer began to repeat itself.
        propose_s: seconds of each proposal.
        insert_s: seconds of each call that learned tokens, the prompt's among them.
        inserted_tokens: tokens learned, prompts' included.
        output_tokens: tokens of answers.
        nbytes: bytes remembered at the end.
    """

    overall: Tally = field(default_factory=Tally)
    by_category: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    halves: tuple[Tally, Tally] = field(default_factory=lambda: (Tally(), Tally()))
    before_loops: Tally = field(default_factory=Tally)
    propose_s: list[float] = field(default_factory=list)
    insert_s: list[float] = field(default_factory=list)
    inserted_tokens: int = 0
    output_tokens: int = 0
    nbytes: int = 0


def replay(
    drafter: ReplayedDrafter,
    traces: Sequence[Trace],
    *,
    draft_tokens: int,
    on_trace_done: Callable[[], None] = lambda: None,
) -> ReplayResult:
    """Replay all traces in order; what the drafter remembers grows from one to the next."""
    result = ReplayResult()
    for place, trace in enumerate(traces):
        tallies = [result.overall, result.by_category[trace.category], result.halves[place % 2]]
        _replay_one(drafter, trace, draft_tokens, tallies, result)
        on_trace_done()
    result.nbytes = drafter.nbytes
    return result


def accepted_length(tree: DraftTree, continuation: Int32Array) -> int:
    """Return how many drafted tokens in a row are those of the recording, from node 0 down."""
    here = [0]
    for level, token in enumerate(continuation):
        here = tree.children_with_token(here, int(token))
        if not here:
            return level
    return len(continuation)


def _replay_one(
    drafter: ReplayedDrafter, trace: Trace, draft_tokens: int, tallies: list[Tally], result: ReplayResult
) -> None:
    output = trace.output_ids
    loop_begins = len(without_loop(output))
    started = perf_counter()
    drafter.begin(trace.prompt_ids)
    _note_insert(result, len(trace.prompt_ids), started)
    _learn(drafter, output[:1], result)
    done = 1
    try:
        while done < len(output):
            started = perf_counter()
            tree = drafter.propose(draft_tokens, len(output) - done - 1)
            result.propose_s.append(perf_counter() - started)
            emitted = 1 + accepted_length(tree, output[done:-1])
            _learn(drafter, output[done : done + emitted], result)
            counted = [*tallies, result.before_loops] if done < loop_begins else tallies
            for tally in counted:
                tally.tokens += emitted
                tally.steps += 1
            done += emitted
    finally:
        drafter.end()
    result.output_tokens += len(output)


def _learn(drafter: ReplayedDrafter, tokens: Int32Array, result: ReplayResult) -> None:
    started = perf_counter()
    drafter.learn(tokens)
    _note_insert(result, len(tokens), started)


def _note_insert(result: ReplayResult, tokens: int, started: float) -> None:
    result.insert_s.append(perf_counter() - started)
    result.inserted_tokens += tokens


def summarise_replay(name: str, draft_tokens: int, result: ReplayResult) -> dict[str, object]:
    """Return one row of figures, as JSON can hold them; times in microseconds."""
    propose_us = np.array(result.propose_s or [0.0]) * 1e6
    return {
        "store": name,
        "draft_tokens": draft_tokens,
        "mean_acceptance_length": _rounded(result.overall),
        "by_category": {category: _rounded(tally) for category, tally in result.by_category.items()},
        "without_loops": _rounded(result.before_loops),
        "even_requests": _rounded(result.halves[0]),
        "odd_requests": _rounded(result.halves[1]),
        "propose_us_p50": round(float(np.percentile(propose_us, 50)), 1),
        "propose_us_p99": round(float(np.percentile(propose_us, 99)), 1),
        "insert_us_per_token": round(sum(result.insert_s) * 1e6 / max(1, result.inserted_tokens), 2),
        "bytes_per_token": round(result.nbytes / max(1, result.output_tokens), 1),
    }


def _rounded(tally: Tally) -> float | None:
    length = tally.mean_acceptance_length
    return None if length is None else round(length, 4)
