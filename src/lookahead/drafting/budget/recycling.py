"""Whether recycling the model's logits is worth its time; if not, it is switched off.

Finding the top-k of each verified node's logits takes time in every step. The gain are accepted tokens that
were drafted only because of recycled logits; each saves about the time of one token.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class RecyclingState:
    """The state of a `RecyclingPolicy`; immutable.

    Attributes:
        is_on: Whether logits are recycled.
        steps: Steps since the last switch or verdict.
        tokens: Tokens accepted from recycled logits since then.
        cost_s: Seconds spent recycling since then.
        saved_s: Seconds that these tokens saved.
    """

    is_on: bool = True
    steps: int = 0
    tokens: int = 0
    cost_s: float = 0.0
    saved_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RecyclingPolicy:
    """Switches recycling off while it costs more time than it saves; state goes in and comes out.

    Args:
        trial_steps: Number of steps after which cost and savings are compared and counted again from zero.
        rest_steps: Number of steps that it stays off before another trial, since the text may change.

    Raises:
        ValueError: Either is below 1.
    """

    trial_steps: int = 128
    rest_steps: int = 1024

    def __post_init__(self) -> None:
        if self.trial_steps < 1 or self.rest_steps < 1:
            message = f"{self} is not allowed; trial_steps and rest_steps are at least 1"
            raise ValueError(message)

    def adapt(
        self, state: RecyclingState, *, tokens: int, cost_s: float, seconds_per_token: float
    ) -> RecyclingState:
        """Return the state after a step.

        Args:
            state: The state before the step.
            tokens: Tokens of the step that were accepted from recycled logits.
            cost_s: Seconds of the step spent recycling.
            seconds_per_token: Current mean seconds per token.
        """
        state = replace(
            state,
            steps=state.steps + 1,
            tokens=state.tokens + tokens,
            cost_s=state.cost_s + cost_s,
            saved_s=state.saved_s + tokens * seconds_per_token,
        )
        if not state.is_on:
            return RecyclingState() if state.steps >= self.rest_steps else state
        if state.steps < self.trial_steps:
            return state
        return RecyclingState(is_on=state.saved_s >= state.cost_s)
