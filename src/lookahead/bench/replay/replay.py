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

from lookahead.bench.data.traces import Trace, without_loop
from lookahead.bench.replay.calibration import Calibration
from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.tree import DraftTree


class ReplayedDrafter(Protocol):
    """Something that drafts for one request at a time.

    Attributes:
        calibrated: whether its drafts' probabilities claim to be true.
    """

    calibrated: bool

    def begin(self, prompt_ids: Int32Array) -> None:
        """Open a request."""

    def propose(self, draft_tokens: int, max_depth: int) -> DraftTree:
        """Return a draft under the last token learned: at most so many tokens beside it, and so deep."""

    def learn(self, token_ids: Int32Array) -> None:
        """See the next tokens of the answer."""

    def recycle(self, token_ids: Int32Array, successors: Int32Array) -> None:
        """See what the model held likeliest after tokens of this request, once it has gone on.

        Args:
            token_ids: int32 [m], tokens already seen.
            successors: int32 [m, k], the likeliest next tokens after each, likeliest first.
        """

    def end(self) -> None:
        """Close the request."""

    @property
    def nbytes(self) -> int | None:
        """Bytes of what is remembered from request to request; 0 where nothing is, None where unknown."""


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
        by_trace: each trace's, in their order.
        halves: traces at even and at odd places, so that what is tuned on one is judged on the other.
        before_loops: steps taken before an answer began to repeat itself.
        propose_s: seconds of each proposal.
        insert_s: seconds of each call that learned tokens, the prompt's among them.
        recycle_s: seconds of each call that recycled successors.
        inserted_tokens: tokens learned, prompts' included.
        recycled_tokens: tokens whose successors were shown.
        output_tokens: tokens of answers.
        nbytes: bytes remembered at the end; None where unknown.
        calibration: the drafts' probabilities against what came; None where they claim nothing.
    """

    overall: Tally = field(default_factory=Tally)
    by_category: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    by_trace: list[Tally] = field(default_factory=list)
    halves: tuple[Tally, Tally] = field(default_factory=lambda: (Tally(), Tally()))
    before_loops: Tally = field(default_factory=Tally)
    propose_s: list[float] = field(default_factory=list)
    insert_s: list[float] = field(default_factory=list)
    recycle_s: list[float] = field(default_factory=list)
    inserted_tokens: int = 0
    recycled_tokens: int = 0
    calibration: Calibration | None = None


def replay(
    drafter: ReplayedDrafter,
    traces: Sequence[Trace],
    *,
    draft_tokens: int,
    recycling: bool = True,
    on_trace_done: Callable[[], None] = lambda: None,
) -> ReplayResult:
    """Replay all traces in order; what the drafter remembers grows from one to the next.

    Args:
        drafter: it may have seen other traces before.
        traces: recorded answers.
        draft_tokens: the most tokens a draft has beside the current one.
        recycling: whether the recorded successors are shown, where there are any.
        on_trace_done: called after each trace.
    """
    result = ReplayResult(calibration=Calibration() if drafter.calibrated else None)
    for place, trace in enumerate(traces):
        result.by_trace.append(Tally())
        tallies = [result.overall, result.by_category[trace.category], result.halves[place % 2]]
        tallies.append(result.by_trace[-1])
        _replay_one(drafter, trace, draft_tokens, tallies, result, recycling=recycling)
        on_trace_done()
    return result


def accepted_levels(tree: DraftTree, continuation: Int32Array) -> list[list[int]]:
    """Return the accepted nodes, level by level from node 0: those whose path is what the recording says."""
    levels = [[0]]
    for token in continuation:
        here = tree.children_with_token(levels[-1], int(token))
        if not here:
            break
        levels.append(here)
    return levels


def _replay_one(
    drafter: ReplayedDrafter,
    trace: Trace,
    draft_tokens: int,
    tallies: list[Tally],
    result: ReplayResult,
    *,
    recycling: bool,
) -> None:
    output = trace.output_ids
    loop_begins = len(without_loop(output))
    started = perf_counter()
    drafter.begin(trace.prompt_ids)
    _note_insert(result, len(trace.prompt_ids), started)
    try:
        _learn(drafter, output[:1], result)
        done = 1
        if recycling:
            _recycle(drafter, trace, 0, done, result)
        while done < len(output):
            emitted = _step(drafter, output, done, draft_tokens, result)
            _learn(drafter, output[done : done + emitted], result)
            if recycling:
                _recycle(drafter, trace, done, done + emitted, result)
            counted = [*tallies, result.before_loops] if done < loop_begins else tallies
            for tally in counted:
                tally.tokens += emitted
                tally.steps += 1
            done += emitted
    finally:
        drafter.end()


def _step(
    drafter: ReplayedDrafter, output: Int32Array, done: int, draft_tokens: int, result: ReplayResult
) -> int:
    """Draft after `done` tokens of the answer; return how many tokens the step emits."""
    started = perf_counter()
    tree = drafter.propose(draft_tokens, len(output) - done - 1)
    result.propose_s.append(perf_counter() - started)
    continuation = output[done:-1]
    levels = accepted_levels(tree, continuation)
    if result.calibration is not None:
        result.calibration.note(tree, levels, continuation)
    return len(levels)


def _learn(drafter: ReplayedDrafter, tokens: Int32Array, result: ReplayResult) -> None:
    started = perf_counter()
    drafter.learn(tokens)
    _note_insert(result, len(tokens), started)


def _recycle(drafter: ReplayedDrafter, trace: Trace, first: int, end: int, result: ReplayResult) -> None:
    """Show what the model held likeliest where it chose the answer's tokens `first` to `end`, all emitted."""
    before = trace.prompt_ids[-1:] if first == 0 else trace.output_ids[first - 1 : first]
    tokens = np.concatenate([before, trace.output_ids[first : end - 1]])
    successors = trace.successor_ids[end - len(tokens) : end]  # an empty prompt has no last token
    if successors.size == 0:
        return
    started = perf_counter()
    drafter.recycle(tokens, successors)
    result.recycle_s.append(perf_counter() - started)
    result.recycled_tokens += len(tokens)


def _note_insert(result: ReplayResult, tokens: int, started: float) -> None:
    result.insert_s.append(perf_counter() - started)
    result.inserted_tokens += tokens


def summarise_replay(
    name: str, draft_tokens: int, result: ReplayResult, bytes_per_token: float | None = None
) -> dict[str, object]:
    """Return one row of figures, as JSON can hold them; times in microseconds.

    Args:
        name: the store's.
        draft_tokens: the most tokens a draft had beside the current one.
        result: what came of the replay.
        bytes_per_token: of the store at full capacity, where that is known.
    """
    propose_us = np.array(result.propose_s or [0.0]) * 1e6
    calibration = result.calibration
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
        "recycle_us_per_token": round(sum(result.recycle_s) * 1e6 / max(1, result.recycled_tokens), 2),
        "bytes_per_token": bytes_per_token,
        "calibration": None if calibration is None else calibration.summary(),
    }


def _rounded(tally: Tally) -> float | None:
    length = tally.mean_acceptance_length
    return None if length is None else round(length, 4)
