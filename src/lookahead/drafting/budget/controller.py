"""The budget while running: how much to draft and whether to recycle, adapted to every step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lookahead.drafting.arrays import Float64Array
from lookahead.drafting.budget.policy import BudgetPolicy, BudgetState
from lookahead.drafting.budget.recycling import RecyclingPolicy, RecyclingState
from lookahead.drafting.budget.step_times import StepTimes, StepTimesTable
from lookahead.drafting.tree import DraftTree

_LATEST = 1 / 32
"""Weight of the latest step in running means."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step: what it did and the seconds it took.

    Attributes:
        rows: Rows in the forward pass.
        context: Tokens of the longest row before it.
        nodes: Nodes verified in each row, the current token included.
        tokens: Tokens emitted by all rows.
        recycled_tokens: Those of them that were drafted from the model's recycled logits.
        forward_s: Seconds of the forward pass, keeping the accepted path included.
        draft_s: Seconds drafting and learning.
        recycle_s: Seconds recycling logits.
    """

    rows: int
    context: int
    nodes: int
    tokens: int
    recycled_tokens: int
    forward_s: float
    draft_s: float
    recycle_s: float


class BudgetController:
    """Decides how much to draft and whether to recycle; remembers what the policies know about one model.

    Args:
        max_nodes: Returns the maximum nodes of each of so many rows in one forward pass, the current token
            included.
        budget: Chooses how much of a draft to verify; None verifies all of it.
        times: The model's step times; an empty table if not given.
    """

    def __init__(
        self,
        max_nodes: Callable[[int], int],
        budget: BudgetPolicy | None = None,
        times: StepTimesTable | None = None,
    ) -> None:
        self.max_nodes = max_nodes
        self._budget = budget
        self._times = StepTimesTable() if times is None else times
        self._recycling_policy = RecyclingPolicy()
        self._state: BudgetState | None = None
        self._recycling_state = RecyclingState()
        self._mean_tokens = self._mean_seconds = 0.0

    @property
    def has_times(self) -> bool:
        """Whether enough is known of the model's step times to choose a budget."""
        return self._budget is None or bool(self._times)

    def needs_measuring(self, rows: int, context: int) -> bool:
        """Return whether the step times of so many rows behind so many tokens are unknown, and wanted."""
        return self._budget is not None and not self._times.knows(rows, context)

    def measured(self, rows: int, context: int, times: StepTimes) -> None:
        """Begin with these step times of so many rows behind so many tokens."""
        self._times.put(rows, context, times)

    @property
    def recycles(self) -> bool:
        """Whether the model's logits are to be recycled."""
        return self._recycling_state.is_on

    def cut(
        self, drafts: Sequence[DraftTree], *, rows: int, context: int, lockstep: bool = False
    ) -> list[DraftTree]:
        """Return as much of each row's draft as pays.

        Args:
            drafts: The rows' drafts.
            rows: Rows in the forward pass, finished ones that stay in it included.
            context: Tokens of the longest row.
            lockstep: Whether the rows advance by as much as the least accepted of them.
        """
        state = self._state_at(rows, context)
        if self._budget is None or state is None:
            return list(drafts)
        waits = lockstep and len(drafts) > 1
        probabilities = accepted_together(drafts) if waits else [draft.probabilities for draft in drafts]
        sizes = self._budget.sizes(state, probabilities)
        return [
            draft if size == len(draft) else draft.first(size)
            for draft, size in zip(drafts, sizes, strict=True)
        ]

    def adapt(self, step: StepReport) -> None:
        """Take a step into account."""
        seconds = step.forward_s + step.draft_s + step.recycle_s
        self._mean_tokens += _LATEST * (step.tokens - self._mean_tokens)
        self._mean_seconds += _LATEST * (seconds - self._mean_seconds)
        self._recycling_state = self._recycling_policy.adapt(
            self._recycling_state,
            tokens=step.recycled_tokens,
            cost_s=step.recycle_s,
            seconds_a_token=self._mean_seconds / self._mean_tokens,
        )
        state = self._state_at(step.rows, step.context)
        if self._budget is not None and state is not None:
            self._state = self._budget.adapt(
                state,
                nodes=step.nodes,
                tokens=step.tokens,
                step_seconds=step.forward_s,
                other_seconds=step.draft_s + step.recycle_s,
            )
            self._times.put(step.rows, step.context, self._state.times)

    def _state_at(self, rows: int, context: int) -> BudgetState | None:
        """Return what the budget goes by, with the step times of so many rows and context tokens."""
        times = None if self._budget is None else self._times.curve(rows, context)
        if self._budget is None or times is None:
            return None
        return self._budget.init(times) if self._state is None else replace(self._state, times=times)


def accepted_together(drafts: Sequence[DraftTree]) -> list[Float64Array]:
    """Return, for rows that wait for each other, each node's chance that it is accepted and no row waits.

    That is its own chance times, for each of the other rows, the chance that it gets as deep.
    """
    deepest = max(int(draft.depths.max()) for draft in drafts)
    reaching = np.array(
        [np.bincount(draft.depths, draft.probabilities, minlength=deepest + 1) for draft in drafts]
    ).clip(0.0, 1.0)
    chances = []
    for row, draft in enumerate(drafts):
        others = np.delete(reaching, row, axis=0).prod(axis=0)
        chances.append(draft.probabilities * others[draft.depths])
    return chances
