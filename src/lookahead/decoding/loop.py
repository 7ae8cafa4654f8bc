"""The one loop: draft, verify in one forward, accept, keep, learn (arXiv 2312.12728, section 4.1)."""

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Protocol

from torch import Tensor

from lookahead.decoding.acceptance import Acceptance, accept
from lookahead.decoding.sampling.padding import padding_drafts
from lookahead.decoding.sampling.recycling import topk_successors
from lookahead.decoding.sampling.state import GenerationState
from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.tree import DraftTree
from lookahead.stats import GenerationStats


class StepModel(Protocol):
    """What the loop asks of a model; it owns the model's cache. Rows are numbered as in the batch."""

    def prefill(self) -> Tensor:
        """Read the prompts; return logits [B, k, V] after their last k tokens, the first new token's last."""

    def forward(self, drafts: Mapping[int, DraftTree]) -> dict[int, Tensor]:
        """Verify a draft tree of each row behind what the cache holds; return logits [n, V] by row.

        Rows without a draft are left out, from now on.
        """

    def max_draft_depth(self, row: int) -> int:
        """Return how deep a row's draft may go before the model runs out of positions."""

    def keep(self, paths: Mapping[int, list[int]]) -> None:
        """Keep in the cache, of the trees just forwarded, only the nodes of each row's path."""


class Drafter(Protocol):
    """The requests' view of the draft memory."""

    def calibrate(self) -> None:
        """Find out what drafting needs to know, now that the model has read the prompts."""

    def propose(self, max_depth: Mapping[int, int]) -> dict[int, DraftTree]:
        """Return a draft after the last token learned of each row, at most `max_depth` deep."""

    def learn(self, row: int, tokens: list[int]) -> None:
        """Remember emitted tokens."""

    @property
    def recycles(self) -> bool:
        """Whether `recycle` is wanted after this step."""

    def recycle_prompt(self, row: int, successors: Int32Array) -> None:
        """Remember what the model holds most likely after each of the prompt's last tokens, int32 [m, k]."""

    def recycle(self, row: int, draft: DraftTree, path: list[int], successors: Int32Array) -> None:
        """Remember what the model holds most likely after each node, int32 [n, k]; `path` was accepted."""

    def adapt(self, nodes: int, tokens: int, seconds: dict[str, float]) -> None:
        """Take into account what a step yielded and took.

        Args:
            nodes: nodes verified for each row.
            tokens: tokens emitted by all rows.
            seconds: by the names they have in the stats.
        """


def decode(
    model: StepModel, drafter: Drafter, states: Sequence[GenerationState], stats: GenerationStats
) -> None:
    """Generate until all emissions are finished; their tokens are the result, `stats` is brought up to date.

    Args:
        model: verifies.
        drafter: proposes.
        states: one for all rows, which then advance together, or one for each row.
        stats: counts and seconds.
    """
    clock = _Clock(stats)
    logits = model.prefill()
    clock.charge("prefill_s")
    _emit_first_tokens(drafter, states, logits, stats)
    clock.charge("verify_s")
    _calibrate(drafter, states, logits, clock)
    while max_depth := _max_depths(model, states):
        drafts = drafter.propose(max_depth)
        clock.charge("draft_s")
        verified = drafts | padding_drafts(states, drafts)
        logits_of = model.forward(verified)
        clock.charge("model_s")
        accepted = _accept_all(states, verified, logits_of)
        clock.charge("verify_s")
        model.keep({row: acceptance.path for row, acceptance in accepted.items()})
        clock.charge("cache_s")
        for row in drafts:
            drafter.learn(row, accepted[row].tokens)
        clock.charge("draft_s")
        if drafter.recycles:
            for row, draft in drafts.items():
                drafter.recycle(row, draft, accepted[row].path, topk_successors(logits_of[row]))
            clock.charge("recycle_s")
        tokens = {row: len(accepted[row].tokens) for row in drafts}
        stats.count_forward(nodes={row: len(draft) for row, draft in drafts.items()}, tokens=tokens)
        drafter.adapt(max(map(len, drafts.values())), sum(tokens.values()), clock.lap())


def _emit_first_tokens(
    drafter: Drafter, states: Sequence[GenerationState], logits: Tensor, stats: GenerationStats
) -> None:
    for state in states:
        tokens = state.emit(logits[list(state.rows), -1])
        for row, token in zip(state.rows, tokens, strict=True):
            drafter.learn(row, [token])
        stats.requests += len(tokens)
        stats.tokens += len(tokens)


def _calibrate(drafter: Drafter, states: Sequence[GenerationState], logits: Tensor, clock: "_Clock") -> None:
    """Measure and recycle what the prompts gave, if any row goes on."""
    rows = _rows_under_way(states)
    if rows:
        drafter.calibrate()
        clock.charge("measure_s")
    if rows and drafter.recycles:
        for row in rows:
            drafter.recycle_prompt(row, topk_successors(logits[row]))
        clock.charge("recycle_s")
    clock.lap()


def _rows_under_way(states: Sequence[GenerationState]) -> dict[int, GenerationState]:
    """Return the rows whose answers go on, each with its emission."""
    return {
        row: state
        for state in states
        if not state.finished
        for row in state.rows
        if row not in state.padded_rows
    }


def _max_depths(model: StepModel, states: Sequence[GenerationState]) -> dict[int, int]:
    """Return the rows whose answers go on, and how deep their drafts may be."""
    under_way = _rows_under_way(states)
    behind = max((state.remaining for state in under_way.values()), default=0)
    levels = {}
    for row, state in under_way.items():
        levels[row] = min(state.remaining - 1, model.max_draft_depth(row))
        if state.max_lead_tokens is not None:
            lead = behind - state.remaining
            levels[row] = min(levels[row], max(0, state.max_lead_tokens - lead))
    return levels


def _accept_all(
    states: Sequence[GenerationState], drafts: Mapping[int, DraftTree], logits: Mapping[int, Tensor]
) -> dict[int, Acceptance]:
    under_way = (state for state in states if not state.finished)
    return {row: got for state in under_way for row, got in accept(drafts, logits, state).items()}


class _Clock:
    """Charges the time since the last charge to one of the stats' seconds."""

    def __init__(self, stats: GenerationStats) -> None:
        self._stats = stats
        self._last = perf_counter()
        self._lap: dict[str, float] = {}

    def charge(self, name: str) -> None:
        """Charge the time since the last charge."""
        now = perf_counter()
        seconds, self._last = now - self._last, now
        setattr(self._stats, name, getattr(self._stats, name) + seconds)
        self._lap[name] = self._lap.get(name, 0.0) + seconds

    def lap(self) -> dict[str, float]:
        """Return what was charged since the last call, by name."""
        seconds, self._lap = self._lap, {}
        return seconds
