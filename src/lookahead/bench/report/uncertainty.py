"""Confidence intervals of ratios of speeds: a bootstrap over paired prompts, or over paired rounds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lookahead.drafting.arrays import Float64Array

_RESAMPLES = 2000
_LEVEL = 95
MIN_PROMPTS = 3
"""Fewer prompts, or pairs, have no interval."""


@dataclass(frozen=True)
class Amount:
    """Tokens and seconds of one prompt."""

    tokens: float
    seconds: float


Side = Sequence[Amount]
"""The amounts of one method, by prompt, always in the same order."""


def speed_ratio_interval(
    over: Sequence[Side], under: Sequence[Side], *, seed: int = 0
) -> tuple[float, float] | None:
    """Return the 95% interval of a ratio of speeds, prompts drawn with replacement; None if undefined.

    A speed is Σ tokens ÷ Σ seconds. Each drawn prompt counts on all sides, so a long one affects each.

    Args:
        over: Sides whose speeds are multiplied.
        under: Sides whose speeds divide the product.
        seed: Seed of the bootstrap.
    """
    prompts = len(over[0])
    if prompts < MIN_PROMPTS:
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


def median_interval(ratios: Sequence[float], *, seed: int = 0) -> tuple[float, float] | None:
    """Return the 95% interval of the median of paired ratios; None if undefined.

    It is a bootstrap: pairs are drawn with replacement.

    Args:
        ratios: One for each pair.
        seed: Seed of the bootstrap.
    """
    if len(ratios) < MIN_PROMPTS:
        return None
    drawn = np.random.default_rng(seed).integers(0, len(ratios), (_RESAMPLES, len(ratios)))
    medians = np.median(np.array(ratios, np.float64)[drawn], axis=1)
    rest = (100 - _LEVEL) / 2
    low, high = np.percentile(medians, [rest, 100 - rest])
    return float(low), float(high)


def speed(side: Side) -> float | None:
    """Return Σ tokens ÷ Σ seconds; None if no time passed."""
    return quotient(sum(amount.tokens for amount in side), sum(amount.seconds for amount in side))


def quotient(over: float | None, under: float | None) -> float | None:
    """Return a ratio; None if one of the two is missing, or the divisor 0."""
    return over / under if over is not None and under else None


def _speeds(side: Side, drawn: np.ndarray) -> Float64Array:
    tokens = np.array([amount.tokens for amount in side], np.float64)[drawn].sum(axis=1)
    seconds = np.array([amount.seconds for amount in side], np.float64)[drawn].sum(axis=1)
    return np.asarray(tokens / seconds)
