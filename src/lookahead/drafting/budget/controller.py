"""The budget at run time: how much to draft and whether to recycle, adapted after every step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lookahead.drafting.arrays import Float64Array
from lookahead.drafting.budget.policy import BudgetPolicy, BudgetState
from lookahead.drafting.budget.recycling import RecyclingPolicy, RecyclingState
from lookahead.drafting.budget.step_times_table import StepTimesTable
from lookahead.drafting.tree import DraftTree

_LATEST = 1 / 32
"""Weight of the latest step in running means."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """The counts and times of one step.

    Attributes:
        rows: Rows in the forward pass.
        context: Tokens of the longest row before it.
        nodes: Nodes verified in each row, the current token included; their mean if rows differ.
        tokens: Tokens emitted by all rows.
        recycled_tokens: How many of them were drafted from the model's recycled logits.
        forward_s: Seconds of the forward pass, keeping the accepted path included.
        draft_s: Seconds drafting and learning.
        recycle_s: Seconds recycling logits.
        is_drafted: Whether any row had a draft, if rows differ in their nodes.
    """

    rows: int
    context: int
    nodes: float
    tokens: int
    recycled_tokens: int
    forward_s: float
    draft_s: float
    recycle_s: float
    is_drafted: bool = False


class BudgetController:
    """Decides how much to draft and whether to recycle, and holds the policies' state for one model.

    Args:
        max_nodes: Maps the number of rows to the maximum nodes per row in one forward pass, the current token
            included.
        budget: Chooses how much of a draft to verify; None verifies all of it.
        times: The model's step times; nothing is known of them if not given.
    """

    def __init__(
        self,
        max_nodes: Callable[[int], int],
        budget: BudgetPolicy | None = None,
        times: StepTimesTable | None = None,
    ) -> None:
        self.max_nodes = max_nodes
        self._budget = budget
        self._times = StepTimesTable(max_nodes(1)) if times is None else times
        self._recycling_policy = RecyclingPolicy()
        self._state: BudgetState | None = None
        self._recycling_state = RecyclingState()
        self._mean_tokens = self._mean_seconds = 0.0

    @property
    def recycles(self) -> bool:
        """Whether to recycle the model's logits."""
        return self._recycling_state.is_on

    def cut(
        self,
        drafts: Sequence[DraftTree],
        *,
        rows: int,
        context: int,
        lockstep: bool = False,
        is_ragged: bool = False,
        beside: int = 0,
        max_draft_tokens: int | None = None,
    ) -> list[DraftTree]:
        """Return the part of each row's draft that is worth verifying.

        Args:
            drafts: The rows' drafts.
            rows: Rows in the forward pass, including finished ones that stay in it.
            context: Tokens of the longest row.
            lockstep: Whether the rows advance by the smallest number accepted.
            is_ragged: Whether each row has its own number of nodes in the forward pass.
            beside: Tokens of prompts in the same forward pass.
            max_draft_tokens: Upper bound on the tokens drafted for all rows together, if there is one.
        """
        if self._budget is None:
            return drafts_within(drafts, max_draft_tokens)
        state = self._state_at(self._budget, rows, context)
        waits = lockstep and len(drafts) > 1
        probabilities = accepted_together(drafts) if waits else [draft.probabilities for draft in drafts]
        if is_ragged:
            sizes = self._budget.ragged_sizes(
                state, probabilities, beside=beside, max_draft_tokens=max_draft_tokens
            )
        else:
            sizes = self._budget.sizes(state, probabilities, max_draft_tokens=max_draft_tokens)
        return [
            draft if size == len(draft) else draft.first(size)
            for draft, size in zip(drafts, sizes, strict=True)
        ]

    def adapt(self, step: StepReport) -> None:
        """Adapt to a step."""
        seconds = step.forward_s + step.draft_s + step.recycle_s
        self._mean_tokens += _LATEST * (step.tokens - self._mean_tokens)
        self._mean_seconds += _LATEST * (seconds - self._mean_seconds)
        self._recycling_state = self._recycling_policy.adapt(
            self._recycling_state,
            tokens=step.recycled_tokens,
            cost_s=step.recycle_s,
            seconds_per_token=self._mean_seconds / self._mean_tokens,
        )
        if self._budget is not None:
            self._state = self._budget.adapt(
                self._state_at(self._budget, step.rows, step.context),
                nodes=step.nodes,
                is_drafted=step.is_drafted,
                tokens=step.tokens,
                step_seconds=step.forward_s,
                other_seconds=step.draft_s + step.recycle_s,
            )
            self._times.put(step.rows, step.context, self._state.times)

    def _state_at(self, budget: BudgetPolicy, rows: int, context: int) -> BudgetState:
        """Return the policy's state with the step times for this many rows and context tokens."""
        times = self._times.curve(rows, context)
        return budget.init(times) if self._state is None else replace(self._state, times=times)


def drafts_within(drafts: Sequence[DraftTree], max_draft_tokens: int | None) -> list[DraftTree]:
    """Return the drafts, all cut to one width if they would have more tokens than allowed."""
    if max_draft_tokens is None or sum(map(len, drafts)) - len(drafts) <= max_draft_tokens:
        return list(drafts)
    width = 1 + max_draft_tokens // len(drafts)
    return [draft if len(draft) <= width else draft.first(width) for draft in drafts]


def accepted_together(drafts: Sequence[DraftTree]) -> list[Float64Array]:
    """Return, for rows in lockstep, each node's probability that all rows accept up to its depth.

    This is its own probability times, for each other row, the probability that a path reaches its depth.
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
