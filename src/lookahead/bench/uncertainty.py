"""How sure a ratio is: a bootstrap over prompts, the two sides paired."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 2000
_LEVEL = 95
FEWEST_PROMPTS = 3
"""Fewer have no interval: drawing from two prompts says nothing about a third."""


@dataclass(frozen=True)
class Amount:
    """Tokens and the seconds they took, of one prompt."""

    tokens: float
    seconds: float


def speed_ratio_interval(
    ours: Sequence[Amount], theirs: Sequence[Amount], *, seed: int = 0
) -> tuple[float, float] | None:
    """Return the 95% interval of our speed ÷ theirs, prompts drawn with replacement; None where none is.

    A speed is Σ tokens ÷ Σ seconds. A prompt is drawn with both of its sides, so that a long one weighs on
    both.

    Args:
        ours: by prompt.
        theirs: the same prompts, in the same order.
        seed: of what is drawn.
    """
    if len(ours) < FEWEST_PROMPTS:
        return None
    drawn = np.random.default_rng(seed).integers(0, len(ours), (_RESAMPLES, len(ours)))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = _speeds(ours, drawn) / _speeds(theirs, drawn)
    ratios = ratios[np.isfinite(ratios) & (ratios > 0)]
    if len(ratios) == 0:
        return None
    rest = (100 - _LEVEL) / 2
    low, high = np.percentile(ratios, [rest, 100 - rest])
    return float(low), float(high)


def _speeds(amounts: Sequence[Amount], drawn: np.ndarray) -> np.ndarray:
    tokens = np.array([amount.tokens for amount in amounts])[drawn].sum(axis=1)
    seconds = np.array([amount.seconds for amount in amounts])[drawn].sum(axis=1)
    return np.asarray(tokens / seconds)
