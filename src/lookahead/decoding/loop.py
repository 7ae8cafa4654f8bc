"""The one loop: draft, verify in one forward pass, accept, keep, learn (arXiv 2312.12728, section 4.1)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol, runtime_checkable

from torch import Tensor

from lookahead.decoding.acceptance import Acceptance, accept_all
from lookahead.decoding.logits import rows_with_nan, successors_of, took_usual_time, was_captured
from lookahead.decoding.sampling.state import GenerationState, foreseen, padding_drafts
from lookahead.decoding.sampling.topk import topk_successors
from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.noise import NOTHING_KNOWN, Noise
from lookahead.drafting.tree import DraftTree
from lookahead.stats import GenerationStats


@dataclass(frozen=True)
class PromptPart:
    """The next tokens of a prompt, read in the forward pass that verifies the drafts of other rows.

    Attributes:
        tokens: The tokens.
        max_logits: For how many of the last of them logits are wanted.
        state: Chooses the first token of the answer, where the prompt ends with this part; else None.
        on_logits: Called with the logits [max_logits, V], before the first token is chosen.
    """

    tokens: Sequence[int]
    max_logits: int = 0
    state: GenerationState | None = None
    on_logits: Callable[[Tensor], None] | None = None


class StepModel(Protocol):
    """A model as the loop uses it, with its cache. The caller chooses the numbers of the rows."""

    def forward(self, drafts: Mapping[int, DraftTree]) -> Mapping[int, Tensor]:
        """Verify a draft tree of each row after the row's text; return logits [n, V] by row.

        Rows without a draft are not in this step; they stay in the cache as they are.
        """

    def are_logits_current(self) -> bool:
        """Return whether the last logits are those of the model as it is now: a callback may change it."""

    def keep(self, paths: Mapping[int, list[int]]) -> None:
        """Keep in the cache only the nodes of each row's path, of the trees verified last."""

    def remove(self, row: int) -> None:
        """Forget a row and free its slot in the cache."""

    def max_draft_depth(self, row: int) -> int:
        """Return how deep a row's draft may go before the model runs out of positions."""


class CallModel(StepModel, Protocol):
    """The model of one call, whose prompts are read at once."""

    def prefill(self) -> Tensor:
        """Read the prompts of all rows; return logits [B, k, V] after the last k tokens of each."""


@runtime_checkable
class PartReader(Protocol):
    """A step model that reads prompts part by part."""

    def forward_with_parts(
        self, drafts: Mapping[int, DraftTree], parts: Mapping[int, PromptPart]
    ) -> Mapping[int, Tensor]:
        """Verify drafts, and read and keep parts of the prompts of other rows.

        Return logits by row, [n, V], those of a part after its last tokens.
        """


class Drafter(Protocol):
    """The requests' view of the draft memory."""

    def propose(
        self,
        max_depths: Mapping[int, int],
        *,
        beside: int = 0,
        max_draft_tokens: int | None = None,
        noise: Mapping[int, Noise] = NOTHING_KNOWN,
    ) -> dict[int, DraftTree]:
        """Return a draft for each row.

        It continues the row's last learned token and is no deeper than the row's entry in `max_depths`.

        Args:
            max_depths: By row.
            beside: Tokens of prompts that are read in the same forward pass.
            max_draft_tokens: Upper bound on the tokens drafted for all rows together, if there is one.
            noise: By row, what is known of the noise of its next draws.
        """

    def learn(self, row: int, tokens: list[int]) -> None:
        """Remember emitted tokens."""

    @property
    def recycles(self) -> bool:
        """Whether `recycle` is wanted after this step."""

    def recycle_prompt(self, row: int, successors: Int32Array) -> None:
        """Remember the model's top-k after each of a prompt's last tokens, int32 [m, k]."""

    def recycle(self, row: int, draft: DraftTree, path: list[int], successors: Int32Array) -> None:
        """Remember the model's top-k after each node of a draft, int32 [n, k]; `path` was accepted."""

    def adapt(self, sizes: Mapping[int, int], tokens: int, seconds: Mapping[str, float]) -> None:
        """Adapt to the results and the times of a step.

        Args:
            sizes: Nodes verified, by row.
            tokens: Tokens emitted by all rows.
            seconds: Seconds of the step, by the names of the stats' fields.
        """

    def remove(self, row: int) -> None:
        """Forget a row's prompt: its request has ended."""


def decode(
    model: CallModel, drafter: Drafter, states: Sequence[GenerationState], stats: GenerationStats
) -> None:
    """Generate until all states are finished; they hold the tokens.

    Args:
        model: Verifies drafts.
        drafter: Proposes drafts.
        states: One for all rows, which then advance in lockstep, or one for each row.
        stats: Counts and seconds; updated.
    """
    clock = StepClock(stats)
    logits = model.prefill()
    clock.charge("prefill_s")
    emit_first_tokens(drafter, states, logits, stats)
    clock.charge("verify_s")
    _recycle_prompts(drafter, states, logits, clock)
    finished = _remove_finished(model, drafter, states, ())
    while step(model, drafter, states, stats, clock):
        finished = _remove_finished(model, drafter, states, finished)


def step(
    model: StepModel,
    drafter: Drafter,
    states: Sequence[GenerationState],
    stats: GenerationStats,
    clock: "StepClock | None" = None,
    *,
    parts: Mapping[int, PromptPart] | None = None,
    max_draft_tokens: int | None = None,
    failures: dict[int, Exception] | None = None,
) -> dict[int, Acceptance]:
    """Do one step for all unfinished rows. Return the acceptance of each row, or {} if all are finished.

    Rows may be added and removed between steps. The model and the drafter must know every row in `states`.
    Their other rows do not take part in this step.

    Args:
        model: Verifies drafts.
        drafter: Proposes drafts.
        states: The states of this step's rows; finished ones are skipped.
        stats: Counts and seconds; updated.
        clock: Charges the seconds; a new one if None.
        parts: The parts of prompts, of other rows, that are read in the same forward pass.
        max_draft_tokens: Upper bound on the tokens drafted for all rows together, if there is one.
        failures: Takes the exceptions of rows' callbacks, by row; such a row is to be removed. If None, an
            exception ends the step.
    """
    clock, parts = clock or StepClock(stats), parts or {}
    max_depths = _max_depths(model, states)
    if not max_depths and not parts:
        return {}
    beside = sum(len(part.tokens) for part in parts.values())
    drafts = {}
    if max_depths:
        drafts = drafter.propose(
            max_depths, beside=beside, max_draft_tokens=max_draft_tokens, noise=foreseen(states, max_depths)
        )
    clock.charge("draft_s")
    verified, logits = _verify(model, states, drafts | padding_drafts(states, drafts), parts)
    drafts = {row: verified[row] for row in drafts}
    clock.charge("model_s")
    accepted = accept_all(verified, logits, states, model.are_logits_current, failures)
    _begin_answers(drafter, parts, logits, stats, failures)
    clock.charge("verify_s")
    model.keep({row: acceptance.path for row, acceptance in accepted.items()})
    clock.charge("cache_s")
    if failures:
        drafts = {row: draft for row, draft in drafts.items() if row not in failures}
        parts = {row: part for row, part in parts.items() if row not in failures}
    _learn(drafter, drafts, parts, accepted, logits, clock)
    sizes = {row: len(draft) for row, draft in drafts.items()}
    tokens = {row: len(accepted[row].tokens) for row in drafts}
    if drafts:
        stats.count_forward(nodes=sizes, tokens=tokens, is_captured=was_captured(logits))
    if drafts and not parts:  # beside prompts, a step's time says nothing of drafts
        seconds = clock.lap()
        if took_usual_time(logits):
            drafter.adapt(sizes, sum(tokens.values()), seconds)
    return accepted


def _learn(
    drafter: Drafter,
    drafts: Mapping[int, DraftTree],
    parts: Mapping[int, PromptPart],
    accepted: Mapping[int, Acceptance],
    logits: Mapping[int, Tensor],
    clock: "StepClock",
) -> None:
    """Let the drafter learn the emitted tokens, and the logits of drafts and of prompts."""
    for row in drafts:
        drafter.learn(row, accepted[row].tokens)
    clock.charge("draft_s")
    if not drafter.recycles:
        return
    for row, draft in drafts.items():
        drafter.recycle(row, draft, accepted[row].path, successors_of(logits, row))
    for row, part in parts.items():
        if part.state is not None and part.max_logits > 0:
            drafter.recycle_prompt(row, topk_successors(logits[row]))
    clock.charge("recycle_s")


def _begin_answers(
    drafter: Drafter,
    parts: Mapping[int, PromptPart],
    logits: Mapping[int, Tensor],
    stats: GenerationStats,
    failures: dict[int, Exception] | None,
) -> None:
    """Choose the first token of each prompt that was read to its end."""
    for row, part in parts.items():
        try:
            if part.on_logits is not None:
                part.on_logits(logits[row])
            if part.state is not None:
                emit_first_tokens(drafter, [part.state], logits[row][None], stats)
        except Exception as error:
            if failures is None:
                raise
            failures[row] = error


def emit_first_tokens(
    drafter: Drafter, states: Sequence[GenerationState], logits: Tensor, stats: GenerationStats
) -> None:
    """Choose the token after each prompt, and let the drafter learn it.

    Args:
        drafter: Learns the tokens.
        states: Choose the tokens.
        logits: [B, k, V] after the prompts' last k tokens, in the order of the states' rows.
        stats: Counts; updated.
    """
    first = 0
    for state in states:
        tokens = state.emit(logits[first : first + len(state.rows), -1])
        first += len(state.rows)
        for row, token in zip(state.rows, tokens, strict=True):
            drafter.learn(row, [token])
        stats.requests += len(tokens)
        stats.tokens += len(tokens)


def _recycle_prompts(
    drafter: Drafter, states: Sequence[GenerationState], logits: Tensor, clock: "StepClock"
) -> None:
    """Let the drafter learn the logits of the prompts of rows that are not finished."""
    rows = _rows_under_way(states)
    if rows and drafter.recycles:
        for index, row in enumerate(row for state in states for row in state.rows):
            if row in rows:
                drafter.recycle_prompt(row, topk_successors(logits[index]))
        clock.charge("recycle_s")
    clock.lap()


def _remove_finished(
    model: StepModel, drafter: Drafter, states: Sequence[GenerationState], removed: Sequence[GenerationState]
) -> Sequence[GenerationState]:
    """Remove the rows of finished states while others continue; return all finished states."""
    finished = [state for state in states if state.finished]
    if len(finished) < len(states):
        for state in finished:
            if state not in removed:
                for row in state.rows:
                    model.remove(row)
                    drafter.remove(row)
    return finished


def _rows_under_way(states: Sequence[GenerationState]) -> dict[int, GenerationState]:
    """Return the rows whose answers are not finished, each with its state."""
    return {
        row: state
        for state in states
        if not state.finished
        for row in state.rows
        if row not in state.padded_rows
    }


def _max_depths(model: StepModel, states: Sequence[GenerationState]) -> dict[int, int]:
    """Return, for each row whose answer is not finished, how deep its draft may be."""
    under_way = _rows_under_way(states)
    max_remaining = max((state.remaining for state in under_way.values()), default=0)
    depths = {}
    for row, state in under_way.items():
        depths[row] = min(state.remaining - 1, model.max_draft_depth(row)) if state.is_drafted else 0
        if state.max_lead_tokens is not None:
            tokens_ahead = max_remaining - state.remaining
            depths[row] = min(depths[row], max(0, state.max_lead_tokens - tokens_ahead))
    return depths


def _verify(
    model: StepModel,
    states: Sequence[GenerationState],
    drafts: dict[int, DraftTree],
    parts: Mapping[int, PromptPart],
) -> tuple[dict[int, DraftTree], Mapping[int, Tensor]]:
    """Verify drafts, and only their first nodes if a row's logits are NaN; return what was verified.

    Most models' own attention multiplies what a node does not see by 0, and 0 times NaN is NaN: a single
    drafted token whose keys or values overflow makes all of a row's logits NaN. A row that is NaN without a
    draft as well is drafted no more.
    """
    if parts:
        assert isinstance(model, PartReader)  # noqa: S101  # no other model is given parts
        logits = model.forward_with_parts(drafts, parts)
    else:
        logits = model.forward(drafts)
    nan_rows = rows_with_nan((row for row, draft in drafts.items() if len(draft) > 1), logits)
    if nan_rows:
        of_parts = {row: logits[row] for row in parts}
        model.keep({row: [] for row in drafts})
        drafts = {row: draft.first(1) for row, draft in drafts.items()}
        logits = {**model.forward(drafts), **of_parts}
        for state in states:
            state.is_drafted &= not rows_with_nan(nan_rows.intersection(state.rows), logits)
    return drafts, logits


class StepClock:
    """Charges the time since the last charge to one of the stats' seconds."""

    def __init__(self, stats: GenerationStats) -> None:
        self._stats = stats
        self._last = perf_counter()
        self._lap: dict[str, float] = {}

    def charge(self, name: str) -> None:
        """Charge the time since the last charge."""
        seconds = self._spent(name)
        setattr(self._stats, name, getattr(self._stats, name) + seconds)
        self._lap[name] = self._lap.get(name, 0.0) + seconds

    def _spent(self, _name: str) -> float:
        now = perf_counter()
        seconds, self._last = now - self._last, now
        return seconds

    def lap(self) -> dict[str, float]:
        """Return what was charged since the last call, by name."""
        seconds, self._lap = self._lap, {}
        return seconds
