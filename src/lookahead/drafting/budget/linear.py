"""`LinearBudget`: how many tokens to draft where another engine does the steps.

Such an engine tells how many tokens a step had and how long it took, of prompts and answers together. Its
steps are ragged, so all that matters is their total:

    T(n, d) = a + b·n + c·d        n tokens; d = 1 if any of them is a draft

`c` is what having any draft costs, however short: another sampler, more logits, metadata. All three are
learned from every step by weighted least squares; steps that read prompts have many tokens and tell b at
once. A draft is verified only if what it is expected to yield is worth more than its time, at the rate at
which tokens come: with nothing gained there is no draft, so that drafts are never a loss.
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
_MAX_SURPRISE = 2.0
"""A step counts as at most this factor slower than expected, so that one pause matters little."""
_RATE_STEPS = 32
_SHORTEST_S = 1e-9
_FORGET_C_STEPS = 1024
"""Steps without any draft in which `c` shrinks to 1/e, so that a wrong value does not stay for ever."""


class StepSeconds:
    """Learns the seconds of a step by its tokens and whether any of them is a draft.

    Attributes:
        coefficients: float64 [3]: a, b and c; zeros until the first step.
    """

    def __init__(self) -> None:
        self.coefficients: Float64Array = np.zeros(3)
        self._squares: Float64Array = np.zeros((3, 3))
        self._products: Float64Array = np.zeros(3)
        self._is_known = False

    def __bool__(self) -> bool:
        return self._is_known

    def seconds(self, tokens: float, *, is_drafted: bool) -> float:
        """Return T(tokens, is_drafted)."""
        return float(self.coefficients @ (1.0, tokens, float(is_drafted)))

    def observe(self, tokens: int, seconds: float, *, is_drafted: bool) -> None:
        """Learn from a step."""
        if not self._is_known:
            one = seconds / (1 + tokens / _PRIOR_TOKENS)
            self.coefficients = np.array([one, one / _PRIOR_TOKENS, 0.0])
            self._is_known = True
        seconds = min(seconds, _MAX_SURPRISE * self.seconds(tokens, is_drafted=is_drafted))
        if not is_drafted:
            self.coefficients[2] *= 1 - 1 / _FORGET_C_STEPS
        features = np.array([1.0, tokens, float(is_drafted)])
        weight = 1.0 / max(seconds, _SHORTEST_S) ** 2  # relative faults count alike
        self._squares = _DECAY * self._squares + weight * np.outer(features, features)
        self._products = _DECAY * self._products + weight * seconds * features
        self.coefficients = self._solved(weight)

    def _solved(self, weight: float) -> Float64Array:
        """Return the coefficients that fit best and are not negative; those so far are the prior."""
        prior = _PRIOR_STEPS * weight * np.diag([1e-3, 1.0, 1.0])
        squares, products = self._squares + prior, self._products + prior @ self.coefficients
        found: Float64Array = np.zeros(3)
        free = [0, 1, 2]
        while free:
            found[:] = 0.0
            found[free] = np.linalg.solve(squares[np.ix_(free, free)], products[free])
            negative = [place for place in free if found[place] < 0]
            if not negative:
                break
            free = [place for place in free if place not in negative]
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
        self.times.observe(tokens, seconds, is_drafted=is_drafted)
        weight = 1 / _RATE_STEPS
        self._other_seconds += weight * (min(other_seconds, seconds) - self._other_seconds)
        if emitted is None:
            return
        if not self._mean_seconds:
            self._mean_tokens, self._mean_seconds = float(emitted), seconds + other_seconds
        counted = min(seconds, _MAX_SURPRISE * self.times.seconds(tokens, is_drafted=is_drafted))
        self._mean_tokens += weight * (emitted - self._mean_tokens)
        self._mean_seconds += weight * (counted + self._other_seconds - self._mean_seconds)
