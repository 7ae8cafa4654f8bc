"""Choosing tokens from processed scores: the argmax, or a sample drawn exactly as `generate` draws it."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lookahead.decoding.sampling.noise_ahead import LEVELS, NoiseAhead
from lookahead.drafting.noise import Noise

_WAITING = 3
"""Of how many draws that wait for a row its drafts may know the noise."""

TokenChoice = Callable[[Tensor], Tensor]
"""Maps processed scores [B, V] to the chosen tokens, int64 [B]."""


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

    def choice_of_row(self, row: int) -> TokenChoice:
        """Return a choice that samples the tokens of one row from scores [1, V]."""

        def sample_of_row(scores: Tensor) -> Tensor:
            probabilities = scores.softmax(dim=-1)
            _check_probabilities(probabilities)
            return (probabilities / self._next_noise(row, probabilities)).argmax(dim=-1)

        return sample_of_row

    def foresee(self, row: int) -> Noise | None:
        """Return the noise of a row's next draws; None before the first one, or where it is not known."""
        if self._ahead is None:
            return None
        return self._ahead.of_row(row, drawn_before=self._steps_drawn - self._steps_taken[row])

    def remove(self, row: int) -> None:
        """Keep no more noise for a row whose answer is finished."""
        self._steps_taken[row] = -1
        self._waiting = {key: noise for key, noise in self._waiting.items() if key[0] != row}

    def _next_noise(self, row: int, probabilities: Tensor) -> Tensor:
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


def _check_probabilities(probabilities: Tensor) -> None:
    """Check probabilities as `multinomial` does, with its message.

    Raises:
        RuntimeError: A probability is infinite, NaN or negative.
    """
    if not bool(((probabilities >= 0) & (probabilities < torch.inf)).all()):
        message = "probability tensor contains either `inf`, `nan` or element < 0"
        raise RuntimeError(message)
