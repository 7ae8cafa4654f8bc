"""Choosing tokens from processed scores: the argmax, or a sample drawn exactly as `generate` draws it."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from lookahead.decoding.sampling.noise_ahead import LEVELS, NoiseAhead
from lookahead.drafting.noise import Noise

_WAITING = 3
"""Of how many draws that wait for a row its drafts may know the noise."""

TokenChoice = Callable[[Tensor], Tensor]
"""Maps processed scores [B, V] to the chosen tokens, int64 [B]."""


INVALID_PROBABILITIES = "probability tensor contains either `inf`, `nan` or element < 0"
"""What `multinomial` says of them."""


class NoiseDraws(Protocol):
    """The sampling noise of one row's next steps: the token is the argmax of probability ÷ noise."""

    def draw(self, probabilities: Tensor) -> Tensor:
        """Return the next step's noise, of the shape of its probabilities, [1, V]."""

    def settle(self, taken: int) -> None:
        """Give back what was drawn since the last call, but for the first `taken` steps."""


def argmax(scores: Tensor) -> Tensor:
    """Return the most probable token of each row of [B, V]: int64 [B]."""
    return scores.argmax(dim=-1)


class Sampler:
    """A choice that samples a token from each row of scores [B, V], as `generate` does.

    Args:
        generator: Draws the noise; torch's own if None.
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self._generator = generator
        self._ahead: NoiseAhead | None = None

    def __call__(self, scores: Tensor) -> Tensor:
        """Return the tokens, int64 [B]."""
        probabilities = scores.softmax(dim=-1)
        if self._ahead is None:
            self._ahead = noise_ahead(probabilities, self._generator)
        return torch.multinomial(probabilities, num_samples=1, generator=self._generator).squeeze(1)

    def foresee(self, row: int) -> Noise | None:
        """Return the noise of a row's next draws; None before the first one, or where it is not known."""
        return None if self._ahead is None else self._ahead.of_row(row)


class DefaultNoise:
    """The noise of a single row, from the default generator of its device."""

    def __init__(self) -> None:
        self._states: list[Tensor] = []
        self._generator: Any = None

    def draw(self, probabilities: Tensor) -> Tensor:
        """Return the noise that `multinomial` would draw for these probabilities, [1, V]."""
        if not self._states:
            self._generator = _default_generator(probabilities.device)
            self._states.append(self._generator.get_state())
        noise = torch.empty_like(probabilities).exponential_(1)
        self._states.append(self._generator.get_state())  # on the host: nothing is waited for
        return noise

    def settle(self, taken: int) -> None:
        """Let the generator go on after the noise of the first `taken` steps."""
        if self._states:
            self._generator.set_state(self._states[taken])
        self._states = []


def _default_generator(device: torch.device) -> Any:
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    return torch.default_generator


class StepNoise:
    """The sampling noise of rows that do not advance in lockstep.

    `multinomial` draws exponential noise of the shape of the probabilities, for all rows of a batch at once,
    and chooses the argmax of probability ÷ noise. Here the same noise is drawn at the same steps in the same
    order, and each row takes its part when it reaches the step. So the text is the same as in lockstep, and
    torch's random state is the same afterwards.

        step     0        1        2          row 0 is first at step 1 and draws noise for both rows;
        row 0    taken    taken    -          row 1 takes its part later
        row 1    taken    waiting  -

    Args:
        rows: Number of rows.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._ahead: NoiseAhead | None = None
        self._steps_drawn = 0
        self._steps_taken = [0] * rows
        self._waiting: dict[tuple[int, int], Tensor] = {}
        self._steps_used = 0  # by any row, not to be given back
        self._states: dict[int, Tensor] = {}  # of the generator before each step that may be given back
        self._on_trial: set[int] = set()  # rows that may give back what they drew
        self._generator: Any = None

    def choice_of_row(self, row: int) -> TokenChoice:
        """Return a choice that samples the tokens of one row from scores [1, V]."""

        def sample_of_row(scores: Tensor) -> Tensor:
            probabilities = scores.softmax(dim=-1)
            _check_probabilities(probabilities)
            noise = self.next_noise(row, probabilities)
            self._steps_used = max(self._steps_used, self._steps_taken[row])
            return (probabilities / noise).argmax(dim=-1)

        return sample_of_row

    def foresee(self, row: int) -> Noise | None:
        """Return the noise of a row's next draws; None before the first one, or where it is not known."""
        if self._ahead is None:
            return None
        return self._ahead.of_row(row, drawn_before=self._steps_drawn - self._steps_taken[row])

    def noise_of_row(self, row: int) -> NoiseDraws:
        """Return the noise of one row's steps, which may be given back."""
        return _RowNoise(self, row)

    def remove(self, row: int) -> None:
        """Keep no more noise for a row whose answer is finished."""
        self._steps_taken[row] = -1
        self._waiting = {key: noise for key, noise in self._waiting.items() if key[0] != row}

    def next_noise(self, row: int, probabilities: Tensor) -> Tensor:
        """Return the noise [1, V] of a row's next step; the first row at a step draws it for all rows."""
        step = self._steps_taken[row]
        self._steps_taken[row] += 1
        if step == self._steps_drawn:
            if self._ahead is None:
                self._ahead = noise_ahead(probabilities, rows=self._rows, slots=_WAITING + LEVELS)
            noise = probabilities.new_empty(self._rows, probabilities.shape[1]).exponential_(1)
            self._steps_drawn += 1
            self._waiting.update(
                {(other, step): noise[other : other + 1] for other in self._rows_before(step, but=row)}
            )
            return noise[row : row + 1]
        return self._waiting.pop((row, step))

    def next_noise_on_trial(self, row: int, probabilities: Tensor) -> Tensor:
        """Return the noise as `next_noise` does; it may be given back."""
        self._on_trial.add(row)
        if self._steps_taken[row] == self._steps_drawn:
            self._generator = _default_generator(probabilities.device)
            self._states[self._steps_drawn] = self._generator.get_state()
        return self.next_noise(row, probabilities)

    def give_back(self, row: int, first: int, drawn: list[Tensor], taken: int) -> None:
        """Take back the noise of a row's steps from `first` on, but for the first `taken` of them.

        Once the last row on trial has given back, what no row has taken is drawn again, so that torch's
        random state is that of the steps taken.
        """
        self._on_trial.discard(row)
        self._steps_used = max(self._steps_used, first + taken)
        if self._steps_taken[row] >= 0:  # else the answer is finished
            self._steps_taken[row] = first + taken
            self._waiting.update(
                {(row, step): noise for step, noise in list(enumerate(drawn, start=first))[taken:]}
            )
        if self._on_trial:
            return
        if self._steps_used < self._steps_drawn:
            self._generator.set_state(self._states[self._steps_used])
            self._waiting = {key: noise for key, noise in self._waiting.items() if key[1] < self._steps_used}
            self._steps_drawn = self._steps_used
        self._states = {}

    def steps_of(self, row: int) -> int:
        """Return how many steps' noise a row has taken."""
        return self._steps_taken[row]

    def _rows_before(self, step: int, *, but: int) -> Iterable[int]:
        """Return the rows that have not taken this step's noise yet and will."""
        return (row for row, taken in enumerate(self._steps_taken) if 0 <= taken <= step and row != but)


def noise_ahead(
    probabilities: Tensor,
    generator: torch.Generator | None = None,
    *,
    rows: int | None = None,
    slots: int = LEVELS,
) -> NoiseAhead | None:
    """Return what follows the draws of tokens with probabilities [B, V]; None if it cannot be followed."""
    if probabilities.device.type != "cpu" or probabilities.dtype != torch.float32:
        return None
    followed = torch.default_generator if generator is None else generator
    rows = len(probabilities) if rows is None else rows
    return NoiseAhead(followed, rows=rows, vocabulary_size=probabilities.shape[1], slots=slots)


class _RowNoise:
    """One row's part of the noise of several rows."""

    def __init__(self, noise: StepNoise, row: int) -> None:
        self._noise = noise
        self._row = row
        self._drawn: list[Tensor] = []
        self._first = 0

    def draw(self, probabilities: Tensor) -> Tensor:
        """Return the next step's noise, [1, V]."""
        if not self._drawn:
            self._first = self._noise.steps_of(self._row)
        self._drawn.append(self._noise.next_noise_on_trial(self._row, probabilities))
        return self._drawn[-1]

    def settle(self, taken: int) -> None:
        """Give back what was drawn since the last call, but for the first `taken` steps."""
        drawn, self._drawn = self._drawn, []
        if drawn:
            self._noise.give_back(self._row, self._first, drawn, taken)


def are_valid(probabilities: Tensor) -> Tensor:
    """Return whether `multinomial` would take the probabilities: bool []."""
    return ((probabilities >= 0) & (probabilities < torch.inf)).all()


def _check_probabilities(probabilities: Tensor) -> None:
    """Check probabilities as `multinomial` does, with its message.

    Raises:
        RuntimeError: A probability is infinite, NaN or negative.
    """
    if not bool(are_valid(probabilities)):
        raise RuntimeError(INVALID_PROBABILITIES)
