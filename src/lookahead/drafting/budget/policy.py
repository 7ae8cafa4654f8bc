"""How many nodes of a draft to verify: the number that maximises tokens per second, without tuning.

Verifying n nodes yields a known expected number of tokens and takes T(n) seconds (`StepTimes`).
`BudgetPolicy` maximises expected tokens - λ·T(n), where λ is the running rate of tokens per second;
docs/concepts/budget.md explains why.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lookahead.drafting.arrays import Float64Array
from lookahead.drafting.budget.step_times import StepTimes, counted_seconds


@dataclass(frozen=True, slots=True)
class BudgetState:
    """The state of a `BudgetPolicy`; immutable.

    Attributes:
        times: Step times.
        mean_tokens: Running mean of the tokens emitted per step.
        mean_seconds: Running mean of the seconds per step.
        mean_other_seconds: The part of `mean_seconds` outside the forward pass.
        drafted_seconds: How much longer than its tokens say a forward pass takes if any row has a draft.
    """

    times: StepTimes
    mean_tokens: float
    mean_seconds: float
    mean_other_seconds: float = 0.0
    drafted_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class BudgetPolicy:
    """Chooses how much of each row's draft to verify; state goes in and comes out.

    Args:
        max_nodes: Maximum number of nodes per row in one forward pass, node 0 included.
        memory_steps: Number of steps over which the running means average: enough to be steady, few enough
            to follow a text from prose into a table.

    Raises:
        ValueError: Either is below 1.
    """

    max_nodes: int = 64
    memory_steps: int = 32

    def __post_init__(self) -> None:
        if self.max_nodes < 1 or self.memory_steps < 1:
            message = f"{self} is not allowed; max_nodes and memory_steps are at least 1"
            raise ValueError(message)

    def init(self, times: StepTimes) -> BudgetState:
        """Return the state before the first step, with the rate of plain steps."""
        return BudgetState(times, mean_tokens=1.0, mean_seconds=times.seconds_for(1))

    def tokens_per_second(self, state: BudgetState, rows: int = 1) -> float:
        """Return λ, the running rate of tokens per second, clipped to the range possible for `rows` rows.

        The lower bound is the rate of plain steps, which are always possible: below it, a rejected draft
        would make the next one larger. The upper bound is the rate if every node is accepted.
        """
        seconds = state.times.up_to(self.max_nodes) + state.mean_other_seconds
        rates = rows * np.arange(1, 1 + len(seconds)) / seconds
        return float(np.clip(state.mean_tokens / state.mean_seconds, rates[0], rates.max()))

    def sizes(
        self,
        state: BudgetState,
        probabilities_by_row: Sequence[Float64Array],
        *,
        max_draft_tokens: int | None = None,
    ) -> tuple[int, ...]:
        """Return how many nodes of each row's draft to verify, node 0 included.

        A forward pass is a rectangle: all rows have the width of the largest tree. So one size is chosen for
        all rows, and a row has fewer nodes only if its draft is smaller. Every size is considered, since T
        has flat parts and jumps; if no draft is worth its time, each row gets only node 0.

        Args:
            state: As `init` and `adapt` return it.
            probabilities_by_row: For each row float64 [n], the path probabilities of its draft's nodes,
                highest first, so that any prefix is a tree.
            max_draft_tokens: Upper bound on the tokens drafted for all rows together, if there is one.
        """
        longest = min(self.max_nodes, max(len(row) for row in probabilities_by_row))
        if max_draft_tokens is not None:
            longest = min(longest, 1 + max_draft_tokens // len(probabilities_by_row))
        tokens = np.zeros(longest)
        for row in probabilities_by_row:
            tokens[: len(row)] += row[:longest]
        if not state.times.is_level_known:
            return (1,) * len(probabilities_by_row)
        seconds = state.times.up_to(longest)
        gains = tokens.cumsum() - self.tokens_per_second(state, len(probabilities_by_row)) * seconds
        size = 1 + int(np.argmax(gains))
        return tuple(min(size, len(row)) for row in probabilities_by_row)

    def ragged_sizes(
        self,
        state: BudgetState,
        probabilities_by_row: Sequence[Float64Array],
        *,
        beside: int = 0,
        max_draft_tokens: int | None = None,
    ) -> tuple[int, ...]:
        """Return how many nodes of each row's draft to verify where each row has its own number of them.

        All rows' nodes are taken in the order of their probability, as many as maximise what the step yields
        less what it costs: one threshold for all rows.

            row A   1.0 | 0.9  0.5  0.1        order: A 0.9, A 0.5, B 0.4, B 0.2, A 0.1
            row B   1.0 | 0.4  0.2             the first three pay: sizes (3, 2)

        Args:
            state: As `init` and `adapt` return it.
            probabilities_by_row: As for `sizes`.
            beside: Tokens of prompts in the same forward pass.
            max_draft_tokens: As for `sizes`.
        """
        rows = len(probabilities_by_row)
        if not state.times.is_level_known:
            return (1,) * rows
        drafted = [row[1 : self.max_nodes] for row in probabilities_by_row]
        probabilities = np.concatenate(drafted)
        row_of = np.repeat(np.arange(rows), [len(row) for row in drafted])
        order = np.argsort(-probabilities, kind="stable")[:max_draft_tokens]
        tokens = np.concatenate([[rows], rows + np.cumsum(probabilities[order])])
        seconds = state.times.at((rows + beside + np.arange(len(tokens))) / rows)
        seconds[1:] += state.drafted_seconds
        gains = tokens - self.tokens_per_second(state, rows) * seconds
        chosen = order[: int(np.argmax(gains))]
        return tuple((1 + np.bincount(row_of[chosen], minlength=rows)).tolist())

    def adapt(
        self,
        state: BudgetState,
        *,
        nodes: float,
        tokens: int,
        step_seconds: float,
        other_seconds: float = 0.0,
        is_drafted: bool = False,
    ) -> BudgetState:
        """Return the state after a step.

        Args:
            state: The state before the step.
            nodes: Nodes verified per row; their mean if rows differ.
            tokens: Tokens emitted by all rows.
            step_seconds: Seconds of the forward pass.
            other_seconds: Further seconds that depend on drafting. Time per emitted token (sampling,
                processors) does not belong here: it does not depend on how the token was drafted.
            is_drafted: Whether any row had a draft.

        Raises:
            ValueError: A time is negative or not a number.
        """
        weight = 1 / self.memory_steps
        times = state.times.observed(nodes, max(0.0, step_seconds - is_drafted * state.drafted_seconds))
        if not state.times.is_observed:  # before, only ratios of the seconds meant anything
            state = self.init(times)
        expected = times.seconds_for(nodes) + is_drafted * state.drafted_seconds
        # It shrinks slowly while nothing is drafted, so that a wrong value does not stay for ever.
        drafted_seconds = state.drafted_seconds * (1 - weight / self.memory_steps)
        if is_drafted:
            beyond = counted_seconds(step_seconds, expected) - times.seconds_for(nodes)
            drafted_seconds = max(0.0, drafted_seconds + weight * (beyond - drafted_seconds))
        # A pause of the whole process says nothing about drafting, so the influence of one step is limited.
        other_seconds = min(other_seconds, 2 * state.mean_other_seconds + times.seconds_for(1))
        seconds = counted_seconds(step_seconds, expected) + other_seconds
        return replace(
            state,
            times=times,
            drafted_seconds=drafted_seconds,
            mean_tokens=state.mean_tokens + weight * (tokens - state.mean_tokens),
            mean_seconds=state.mean_seconds + weight * (seconds - state.mean_seconds),
            mean_other_seconds=state.mean_other_seconds + weight * (other_seconds - state.mean_other_seconds),
        )
