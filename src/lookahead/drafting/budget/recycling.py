"""Whether recycling the model's logits pays: measured, and off by itself where it does not.

Picking each verified node's likeliest successors out of the vocabulary takes time at every step. What it
brings are tokens accepted where nothing but such a successor had been drafted; each spares about the time of
one token.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class RecyclingState:
    """What a `RecyclingPolicy` knows; handed in and out, never changed.

    Attributes:
        is_on: logits are being recycled.
        steps: steps since it was switched on or off.
        tokens: tokens since then that were accepted from recycled logits.
        cost_s: seconds since then that recycling took.
        saved_s: seconds since then that those tokens spared.
    """

    is_on: bool = True
    steps: int = 0
    tokens: int = 0
    cost_s: float = 0.0
    saved_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RecyclingPolicy:
    """Switches recycling off while it costs more than it spares; state goes in and comes out.

    Args:
        trial_steps: after so many steps it is judged what they cost and brought; then counting begins anew.
        rest_steps: it stays off for so many steps before it is tried again, for a text may turn.

    Raises:
        ValueError: either is below 1.
    """

    trial_steps: int = 128
    rest_steps: int = 1024

    def __post_init__(self) -> None:
        if self.trial_steps < 1 or self.rest_steps < 1:
            message = f"{self} is not allowed; trial_steps and rest_steps are at least 1"
            raise ValueError(message)

    def adapt(
        self, state: RecyclingState, *, tokens: int, cost_s: float, seconds_a_token: float
    ) -> RecyclingState:
        """Return the state after a step.

        Args:
            state: the one before.
            tokens: tokens of the step that were accepted from recycled logits.
            cost_s: seconds that recycling took in it.
            seconds_a_token: what a token takes now, on average.
        """
        state = replace(
            state,
            steps=state.steps + 1,
            tokens=state.tokens + tokens,
            cost_s=state.cost_s + cost_s,
            saved_s=state.saved_s + tokens * seconds_a_token,
        )
        if not state.is_on:
            return RecyclingState() if state.steps >= self.rest_steps else state
        if state.steps < self.trial_steps:
            return state
        return RecyclingState(is_on=state.saved_s >= state.cost_s)
