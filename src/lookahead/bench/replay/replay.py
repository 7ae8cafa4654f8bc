"""Replay: feed recorded answers back token by token, and judge drafts without a model.

A draft is accepted as far as the recording agrees with it, as greedy verification would have done. The
drafter only ever sees tokens that come before its draft.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

import numpy as np

from lookahead.bench.data.traces import Trace, without_loop
from lookahead.bench.replay.calibration import Calibration
from lookahead.bench.replay.known_noise import KnownNoise
from lookahead.bench.replay.noise import DraftsByNoise, ReplayedNoise, replayed_noise
from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.tree import DraftTree


class ReplayedDrafter(Protocol):
    """Drafts for one request at a time.

    Attributes:
        calibrated: Whether the probabilities of its drafts are meant as probabilities.
    """

    calibrated: bool

    def begin(self, prompt_ids: Int32Array) -> None:
        """Open a request."""

    def propose(self, draft_tokens: int, max_depth: int) -> DraftTree:
        """Return a draft under the last token learned, at most `draft_tokens` more and `max_depth` deep."""

    def learn(self, token_ids: Int32Array) -> None:
        """Take the next tokens of the answer."""

    def recycle(self, token_ids: Int32Array, successors: Int32Array) -> None:
        """Take the most probable successors of tokens of this request, after the request has gone on.

        Args:
            token_ids: int32 [m], tokens already learned.
            successors: int32 [m, k], the k most probable next tokens after each, in descending order.
        """

    def end(self) -> None:
        """Close the request."""

    @property
    def nbytes(self) -> int | None:
        """Bytes of the memory that outlives requests; 0 if there is none, None if unknown."""


@dataclass
class Tally:
    """Tokens after the first of each answer, and the forward passes they would have taken."""

    tokens: int = 0
    steps: int = 0

    @property
    def mean_acceptance_length(self) -> float | None:
        """Tokens per forward pass; None without a forward pass."""
        return self.tokens / self.steps if self.steps else None


@dataclass
class ReplayResult:
    """What a replay measured.

    Attributes:
        overall: All traces.
        by_category: The traces of each category.
        by_trace: Each trace, in order.
        halves: Traces at even and at odd positions: tune on one half, judge on the other.
        before_loops: Steps before an answer starts to repeat itself.
        propose_s: Seconds of each proposal.
        insert_s: Seconds of each call that learned tokens, prompts included.
        recycle_s: Seconds of each call that recycled successors.
        foresee_s: Seconds of each draw of noise ahead, torch's own draw included.
        inserted_tokens: Tokens learned, prompts included.
        recycled_tokens: Tokens whose successors were recycled.
        calibration: Predicted probabilities against acceptance; None for uncalibrated drafters.
    """

    overall: Tally = field(default_factory=Tally)
    by_category: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    by_trace: list[Tally] = field(default_factory=list)
    halves: tuple[Tally, Tally] = field(default_factory=lambda: (Tally(), Tally()))
    before_loops: Tally = field(default_factory=Tally)
    propose_s: list[float] = field(default_factory=list)
    insert_s: list[float] = field(default_factory=list)
    recycle_s: list[float] = field(default_factory=list)
    foresee_s: list[float] = field(default_factory=list)
    inserted_tokens: int = 0
    recycled_tokens: int = 0
    calibration: Calibration | None = None


def replay(
    drafter: ReplayedDrafter,
    traces: Sequence[Trace],
    *,
    draft_tokens: int,
    recycling: bool = True,
    known_noise: KnownNoise = KnownNoise.OWN,
) -> ReplayResult:
    """Replay all traces in order; the drafter's memory grows from one to the next.

    Args:
        drafter: May have learned other traces before.
        traces: Recorded answers.
        draft_tokens: Maximum number of draft tokens, without the current one.
        recycling: Whether recorded successors are recycled.
        known_noise: What the drafter knows of the noise of sampled answers.
    """
    result = ReplayResult(calibration=Calibration() if drafter.calibrated else None)
    for index, trace in enumerate(traces):
        result.by_trace.append(Tally())
        tallies = [result.overall, result.by_category[trace.category], result.halves[index % 2]]
        tallies.append(result.by_trace[-1])
        noise = replayed_noise(trace, known_noise) if isinstance(drafter, DraftsByNoise) else None
        _replay_one(drafter, trace, draft_tokens, tallies, result, noise=noise, recycling=recycling)
    return result


def accepted_levels(tree: DraftTree, continuation: Int32Array) -> list[list[int]]:
    """Return the accepted nodes of each level, from node 0: the nodes whose path equals the recording."""
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
    noise: ReplayedNoise | None,
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
            if noise is not None and isinstance(drafter, DraftsByNoise):
                started = perf_counter()
                drafter.noise = noise.after(done)
                result.foresee_s.append(perf_counter() - started)
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
    """Draft after `done` tokens of the answer; return the number of tokens that the step emits."""
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
    """Recycle the successors recorded where the model chose the answer's tokens `first` to `end`."""
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
