"""How sure a ratio is: a bootstrap over prompts, all sides paired."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lookahead.drafting.arrays import Float64Array

_RESAMPLES = 2000
_LEVEL = 95
FEWEST_PROMPTS = 3
"""Fewer have no interval: drawing from two prompts says nothing about a third."""


@dataclass(frozen=True)
class Amount:
    """Tokens and the seconds they took, of one prompt."""

    tokens: float
    seconds: float


Side = Sequence[Amount]
"""What one method did, prompt by prompt, always in the same order."""


def speed_ratio_interval(
    over: Sequence[Side], under: Sequence[Side], *, seed: int = 0
) -> tuple[float, float] | None:
    """Return the 95% interval of a ratio of speeds, prompts drawn with replacement; None where none is.

    A speed is Σ tokens ÷ Σ seconds. A prompt is drawn with all sides, so that a long one weighs on each.

    Args:
        over: whose speeds are multiplied.
        under: by whose speeds that is divided.
        seed: of what is drawn.
    """
    prompts = len(over[0])
    if prompts < FEWEST_PROMPTS:
        return None
    drawn = np.random.default_rng(seed).integers(0, prompts, (_RESAMPLES, prompts))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.prod([_speeds(side, drawn) for side in over], axis=0)
        ratios = ratios / np.prod([_speeds(side, drawn) for side in under], axis=0)
    ratios = ratios[np.isfinite(ratios) & (ratios > 0)]
    if len(ratios) == 0:
        return None
    rest = (100 - _LEVEL) / 2
    low, high = np.percentile(ratios, [rest, 100 - rest])
    return float(low), float(high)


def speed(side: Side) -> float | None:
    """Return Σ tokens ÷ Σ seconds; None where no time passed."""
    seconds = sum(amount.seconds for amount in side)
    return sum(amount.tokens for amount in side) / seconds if seconds else None


def _speeds(side: Side, drawn: np.ndarray) -> Float64Array:
    tokens = np.array([amount.tokens for amount in side], np.float64)[drawn].sum(axis=1)
    seconds = np.array([amount.seconds for amount in side], np.float64)[drawn].sum(axis=1)
    return np.asarray(tokens / seconds)
