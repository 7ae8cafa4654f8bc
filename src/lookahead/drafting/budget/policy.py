"""How many nodes of a draft to verify: as many as raise the long-run rate of tokens, measured, not tuned.

Verifying n nodes yields a known expectation of tokens and takes T(n) seconds (`StepTimes`). `BudgetPolicy`
maximises the tokens expected minus λ·T(n), λ being the running tokens per second; docs/concepts/budget.md
says why.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lookahead.drafting.arrays import Float64Array
from lookahead.drafting.budget.step_times import StepTimes, counted_seconds


@dataclass(frozen=True, slots=True)
class BudgetState:
    """What a `BudgetPolicy` knows; handed in and out, never changed.

    Attributes:
        times: how long forwards take.
        mean_tokens: tokens emitted by a step, over the last steps.
        mean_seconds: seconds of a step, over the same steps.
        mean_other_seconds: those of them that were spent outside the forward.
    """

    times: StepTimes
    mean_tokens: float
    mean_seconds: float
    mean_other_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class BudgetPolicy:
    """Chooses how much of each row's draft to verify; state goes in and comes out.

    Args:
        max_nodes: nodes of a row in one forward at most, its node 0 included.
        memory_steps: over how many steps, roughly, the rate of tokens is averaged: long enough to be
            steady, short enough to follow a text from its prose into its tables.

    Raises:
        ValueError: either is below 1.
    """

    max_nodes: int = 64
    memory_steps: int = 32

    def __post_init__(self) -> None:
        if self.max_nodes < 1 or self.memory_steps < 1:
            message = f"{self} is not allowed; max_nodes and memory_steps are at least 1"
            raise ValueError(message)

    def init(self, times: StepTimes) -> BudgetState:
        """Return the state before any step: the rate is that of plain steps."""
        return BudgetState(times, mean_tokens=1.0, mean_seconds=times.seconds_for(1))

    def tokens_per_second(self, state: BudgetState, rows: int = 1) -> float:
        """Return λ, the running rate of tokens, within what is plausible for so many rows.

        It is never below that of plain steps, which is always to be had: else a draft that disappoints
        would make the next one larger. It is never above that of forwards whose every node is emitted.
        """
        seconds = state.times.up_to(self.max_nodes) + state.mean_other_seconds
        rates = rows * np.arange(1, 1 + len(seconds)) / seconds
        return float(np.clip(state.mean_tokens / state.mean_seconds, rates[0], rates.max()))

    def sizes(self, state: BudgetState, probabilities_by_row: Sequence[Float64Array]) -> tuple[int, ...]:
        """Return how many nodes of each row's draft to verify, node 0 included.

        A forward is a rectangle, as many tokens for each row as for the row with the most: so there is one
        size for all rows, and a row has less only where its draft ends. Every size is looked at, since T
        has flat parts and steps; where none pays, each row gets its node 0 alone.

        Args:
            state: as `init` and `adapt` return it.
            probabilities_by_row: for each row float64 [n], its draft nodes' path probabilities, best
                first, so that any prefix is a tree.
        """
        longest = min(self.max_nodes, max(len(row) for row in probabilities_by_row))
        tokens = np.zeros(longest)
        for row in probabilities_by_row:
            tokens[: len(row)] += row[:longest]
        seconds = state.times.up_to(longest)
        gains = tokens.cumsum() - self.tokens_per_second(state, len(probabilities_by_row)) * seconds
        size = 1 + int(np.argmax(gains))
        return tuple(min(size, len(row)) for row in probabilities_by_row)

    def adapt(
        self, state: BudgetState, *, nodes: int, tokens: int, step_seconds: float, other_seconds: float = 0.0
    ) -> BudgetState:
        """Return the state after a step.

        Args:
            state: the one before.
            nodes: nodes verified in its forward for each row.
            tokens: tokens emitted by it, all rows together.
            step_seconds: seconds of its forward.
            other_seconds: seconds that it took besides, such as drafting. What is spent for each emitted
                token (sampling, processors) does not belong here: it is the same however they are drafted.

        Raises:
            ValueError: a time is negative or not a number.
        """
        times = state.times.observed(nodes, step_seconds)
        # A pause of the whole process says nothing about drafting, so one step counts for so much only.
        other_seconds = min(other_seconds, 2 * state.mean_other_seconds + times.seconds_for(1))
        seconds = counted_seconds(step_seconds, state.times.seconds_for(nodes)) + other_seconds
        weight = 1 / self.memory_steps
        return replace(
            state,
            times=times,
            mean_tokens=state.mean_tokens + weight * (tokens - state.mean_tokens),
            mean_seconds=state.mean_seconds + weight * (seconds - state.mean_seconds),
            mean_other_seconds=state.mean_other_seconds + weight * (other_seconds - state.mean_other_seconds),
        )
