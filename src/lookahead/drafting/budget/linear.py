"""`LinearBudget`: how many tokens to draft where another engine does the steps.

Such an engine tells how many tokens a step had and how long it took, of prompts and answers together. Its
steps are ragged, so all that matters is their total:

    T(n, d) = a + b·n + c·d        n tokens; d = 1 if any of them is a draft

`c` is what having any draft costs, however short: another sampler, more logits, metadata. All three are
learned from every step by weighted least squares. Steps that read prompts have many tokens and tell b at
once; but a token costs less among hundreds than among ten, so they count little.

A draft is verified only if what it is expected to yield is worth more than its time, at the rate at which
tokens come: with nothing gained there is no draft, so that drafts are never a loss.
"""

from collections.abc import Sequence

import numpy as np

from lookahead.drafting.arrays import Float64Array

_DECAY = 0.98
"""Weight of a step after one more: the last fifty or so count."""
_PRIOR_TOKENS = 64
"""Before anything else is known, this many tokens are taken to cost as much again as a step of one."""
_PRIOR_STEPS = 4.0
"""How many steps the estimate so far counts for, in what the newest steps say nothing about."""
_PROMPT_WEIGHT = 1 / 4096
"""How much a step counts that reads a prompt as well: hardly, as soon as there are others."""
_MAX_SURPRISE = 2.0
"""A step counts as at most this factor slower than expected, so that one pause matters little."""
_RATE_STEPS = 32
_SHORTEST_S = 1e-9
_FORGET_C_STEPS = 1024
"""Steps without any draft in which `c` shrinks to 1/e, so that a wrong value does not stay for ever."""


class StepSeconds:
    """Learns the seconds of a step by its tokens and whether any of them is a draft.

    The numbers are Python's: for three of them numpy takes ten times as long, in every step.

    Attributes:
        coefficients: a, b and c; zeros until the first step.
    """

    def __init__(self) -> None:
        self.coefficients = (0.0, 0.0, 0.0)
        self._squares = [[0.0] * 3 for _ in range(3)]
        self._products = [0.0] * 3
        self._is_known = False

    def __bool__(self) -> bool:
        return self._is_known

    def seconds(self, tokens: float, *, is_drafted: bool) -> float:
        """Return T(tokens, is_drafted)."""
        per_step, per_token, per_draft = self.coefficients
        return per_step + per_token * tokens + per_draft * is_drafted

    def observe(self, tokens: int, seconds: float, *, is_drafted: bool, has_prompt: bool = False) -> None:
        """Learn from a step; `has_prompt` says whether some of its tokens are of a prompt."""
        if not self._is_known:
            one = seconds / (1 + tokens / _PRIOR_TOKENS)
            self.coefficients = (one, one / _PRIOR_TOKENS, 0.0)
            self._is_known = True
        seconds = min(seconds, _MAX_SURPRISE * self.seconds(tokens, is_drafted=is_drafted))
        if not is_drafted:
            per_step, per_token, per_draft = self.coefficients
            self.coefficients = (per_step, per_token, per_draft * (1 - 1 / _FORGET_C_STEPS))
        weight = 1.0 / max(seconds, _SHORTEST_S) ** 2  # relative faults count alike
        weight *= _PROMPT_WEIGHT if has_prompt else 1.0
        features = (1.0, float(tokens), float(is_drafted))
        for i, row in enumerate(self._squares):
            self._products[i] = _DECAY * self._products[i] + weight * seconds * features[i]
            for j in range(3):
                row[j] = _DECAY * row[j] + weight * features[i] * features[j]
        self.coefficients = self._solved(weight)

    def _solved(self, weight: float) -> tuple[float, float, float]:
        """Return the coefficients that fit best and are not negative; those so far are the prior."""
        prior = (1e-3 * _PRIOR_STEPS * weight, _PRIOR_STEPS * weight, _PRIOR_STEPS * weight)
        squares = [
            [value + prior[i] * (i == j) for j, value in enumerate(row)]
            for i, row in enumerate(self._squares)
        ]
        products = [self._products[i] + prior[i] * self.coefficients[i] for i in range(3)]
        free = [0, 1, 2]
        while free:
            found = _solution([[squares[i][j] for j in free] for i in free], [products[i] for i in free])
            if min(found) >= 0:
                by_place = dict(zip(free, found, strict=True))
                return by_place.get(0, 0.0), by_place.get(1, 0.0), by_place.get(2, 0.0)
            free = [place for place, value in zip(free, found, strict=True) if value >= 0]
        return 0.0, 0.0, 0.0


def _solution(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Solve a positive definite system of up to three equations by elimination."""
    size = len(right)
    for i in range(size):
        matrix[i][i] *= 1 + 1e-12  # positive definite also where numbers of very different size were rounded
    for pivot in range(size):
        for row in range(pivot + 1, size):
            factor = matrix[row][pivot] / matrix[pivot][pivot]
            for column in range(pivot, size):
                matrix[row][column] -= factor * matrix[pivot][column]
            right[row] -= factor * right[pivot]
    found = [0.0] * size
    for row in reversed(range(size)):
        rest = right[row] - sum(matrix[row][column] * found[column] for column in range(row + 1, size))
        found[row] = rest / matrix[row][row]
    return found


class LinearBudget:
    """Chooses how many tokens of each row's draft are verified, and learns from each step.

    Attributes:
        times: The seconds of steps.
    """

    def __init__(self) -> None:
        self.times = StepSeconds()
        self._mean_tokens = self._mean_seconds = 0.0
        self._other_seconds = 0.0

    def sizes(self, rows: int, probabilities_by_row: Sequence[Float64Array]) -> list[int]:
        """Return how many tokens of each row's draft to verify.

        Tokens are taken in the order of their probability, over all rows, as many as yield most less what
        they cost:

            row A   0.9  0.5  0.1        order: A 0.9, A 0.5, B 0.4, B 0.2, A 0.1
            row B   0.4  0.2             b worth 0.3 tokens, c 0.5: gains 0.1, 0.3, 0.4, 0.3, 0.1
                                         sizes 2 and 1

        Args:
            rows: Rows of the next step, drafted or not.
            probabilities_by_row: For each draft float64 [n], descending: that all tokens up to there are
                accepted.
        """
        counts = [len(row) for row in probabilities_by_row]
        if not self.times or sum(counts) == 0:
            return [0] * len(counts)
        probabilities = np.concatenate(probabilities_by_row)
        row_of = np.repeat(np.arange(len(counts)), counts)
        order = np.argsort(-probabilities, kind="stable")
        _, per_token, per_draft = self.times.coefficients
        costs = per_token * np.arange(1, 1 + len(order)) + per_draft
        gains = np.cumsum(probabilities[order]) - self.tokens_per_second(rows) * costs
        best = int(np.argmax(gains))
        if gains[best] <= 0:
            return [0] * len(counts)
        found: list[int] = np.bincount(row_of[order[: best + 1]], minlength=len(counts)).tolist()
        return found

    def tokens_per_second(self, rows: int) -> float:
        """Return the rate at which tokens come: that of the last steps, and at least that without drafts."""
        plain = rows / max(self.times.seconds(rows, is_drafted=False) + self._other_seconds, _SHORTEST_S)
        return max(plain, self._mean_tokens / self._mean_seconds if self._mean_seconds else 0.0)

    def observe(
        self, tokens: int, seconds: float, *, is_drafted: bool, emitted: int | None, other_seconds: float
    ) -> None:
        """Learn from a step.

        Args:
            tokens: All tokens of the step.
            seconds: What it took, without drafting.
            is_drafted: Whether any of the tokens was a draft.
            emitted: Tokens of answers that it yielded; None if it read a prompt as well.
            other_seconds: What drafting took.
        """
        self.times.observe(tokens, seconds, is_drafted=is_drafted, has_prompt=emitted is None)
        weight = 1 / _RATE_STEPS
        self._other_seconds += weight * (min(other_seconds, seconds) - self._other_seconds)
        if emitted is None:
            return
        if not self._mean_seconds:
            self._mean_tokens, self._mean_seconds = float(emitted), seconds + other_seconds
        counted = min(seconds, _MAX_SURPRISE * self.times.seconds(tokens, is_drafted=is_drafted))
        self._mean_tokens += weight * (emitted - self._mean_tokens)
        self._mean_seconds += weight * (counted + self._other_seconds - self._mean_seconds)
