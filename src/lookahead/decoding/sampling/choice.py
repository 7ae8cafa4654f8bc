"""Choosing tokens from processed scores: the likeliest, or drawn exactly as `generate` draws."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

TokenChoice = Callable[[Tensor], Tensor]
"""Maps processed scores [B, V] to the chosen tokens, int64 [B]."""


def argmax(scores: Tensor) -> Tensor:
    """Return the likeliest token of each row of [B, V]: int64 [B]."""
    return scores.argmax(dim=-1)


def drawn(scores: Tensor) -> Tensor:
    """Return a token drawn from each row of [B, V]: int64 [B]."""
    return torch.multinomial(scores.softmax(dim=-1), num_samples=1).squeeze(1)


def drawn_with(generator: torch.Generator) -> TokenChoice:
    """Return what draws a token from each row of [B, V] with a generator of its own: int64 [B]."""

    def drawn_of_generator(scores: Tensor) -> Tensor:
        return torch.multinomial(scores.softmax(dim=-1), num_samples=1, generator=generator).squeeze(1)

    return drawn_of_generator


class StepNoise:
    """The noise of sampling for rows that advance each at its own pace.

    `multinomial` draws, for all rows of a batch at once, exponential noise of the shape of the
    probabilities, and takes where their ratio is largest. Here the same noise is drawn at the same steps,
    in the same order, and each row takes its part of it when it gets there: the text is that of rows that
    wait for each other, and afterwards torch's random state is the same as well.

    Args:
        rows: how many rows there are.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._steps_drawn = 0
        self._steps_taken = [0] * rows
        self._waiting: dict[tuple[int, int], Tensor] = {}

    def of_row(self, row: int) -> TokenChoice:
        """Return what draws the tokens of one row, from scores [1, V]."""

        def drawn_of_row(scores: Tensor) -> Tensor:
            probabilities = scores.softmax(dim=-1)
            _check_probabilities(probabilities)
            return (probabilities / self._taken(row, probabilities)).argmax(dim=-1)

        return drawn_of_row

    def leave(self, row: int) -> None:
        """Draw no more for a row: its answer is over, and what was drawn ahead for it is forgotten."""
        self._steps_taken[row] = -1
        self._waiting = {key: noise for key, noise in self._waiting.items() if key[0] != row}

    def _taken(self, row: int, probabilities: Tensor) -> Tensor:
        """Return the noise [1, V] of a row's next step; the first row to get there has it drawn for all."""
        step = self._steps_taken[row]
        self._steps_taken[row] += 1
        if step == self._steps_drawn:
            noise = probabilities.new_empty(self._rows, probabilities.shape[1]).exponential_(1)
            self._steps_drawn += 1
            self._waiting.update(
                {(other, step): noise[other : other + 1] for other in self._rows_at_most(step, but=row)}
            )
            return noise[row : row + 1]
        return self._waiting.pop((row, step))

    def _rows_at_most(self, step: int, *, but: int) -> Iterable[int]:
        """Return the rows that have not taken this step's noise yet and will."""
        return (row for row, taken in enumerate(self._steps_taken) if 0 <= taken <= step and row != but)


def _check_probabilities(probabilities: Tensor) -> None:
    """Refuse what `multinomial` refuses, in its words.

    Raises:
        RuntimeError: one is infinite, no number or negative.
    """
    if not bool(((probabilities >= 0) & (probabilities < torch.inf)).all()):
        message = "probability tensor contains either `inf`, `nan` or element < 0"
        raise RuntimeError(message)
