"""The pace of decoding: how much to draft and whether to recycle, as measured while running."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lookahead.drafting.arrays import Float64Array
from lookahead.drafting.budget.policy import BudgetPolicy, BudgetState, StepTimes
from lookahead.drafting.budget.recycling import RecyclingPolicy, RecyclingState
from lookahead.drafting.tree import DraftTree

_LATEST = 1 / 32
"""Weight of the latest step in running means."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step: what it did and the seconds it took.

    Attributes:
        nodes: nodes verified in each row, the current token included.
        tokens: tokens emitted by all rows.
        recycled_tokens: those of them that were drafted from the model's recycled logits.
        forward_s: seconds of the forward, keeping the accepted path included.
        draft_s: seconds drafting and learning.
        recycle_s: seconds recycling logits.
    """

    nodes: int
    tokens: int
    recycled_tokens: int
    forward_s: float
    draft_s: float
    recycle_s: float


class BudgetController:
    """Remembers from step to step, and from batch to batch, what the policies know about one model.

    Args:
        max_nodes: nodes of each row in one forward at most, the current token included.
        budget: chooses how much of a draft to verify; None verifies all of it.
    """

    def __init__(self, max_nodes: int, budget: BudgetPolicy | None = None) -> None:
        self.max_nodes = max_nodes
        self._budget = budget
        self._recycling_policy = RecyclingPolicy()
        self._budget_state: BudgetState | None = None
        self._recycling_state = RecyclingState()
        self._mean_tokens = self._mean_seconds = 0.0

    @property
    def needs_measuring(self) -> bool:
        """Whether the model's step times are still unknown, and wanted."""
        return self._budget is not None and self._budget_state is None

    def measured(self, times: StepTimes) -> None:
        """Begin with these step times."""
        if self._budget is not None:
            self._budget_state = self._budget.init(times)

    @property
    def recycles(self) -> bool:
        """Whether the model's logits are to be recycled."""
        return self._recycling_state.is_on

    def cut(self, drafts: Sequence[DraftTree], *, lockstep: bool = False) -> list[DraftTree]:
        """Return as much of each row's draft as pays.

        Args:
            drafts: of all rows in the next forward.
            lockstep: whether the rows advance by as much as the least accepted of them.
        """
        state = self._budget_state
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
        if self._budget is not None and self._budget_state is not None:
            self._budget_state = self._budget.adapt(
                self._budget_state,
                nodes=step.nodes,
                tokens=step.tokens,
                step_seconds=step.forward_s,
                other_seconds=step.draft_s + step.recycle_s,
            )


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
