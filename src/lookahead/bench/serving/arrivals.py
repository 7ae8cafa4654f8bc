"""When requests arrive: all at once, at random moments, or in bursts; the same moments for a seed."""

import math
import random
from enum import StrEnum
from itertools import accumulate

from lookahead.errors import ConfigError

BURST = 4
"""Requests of a burst."""


class Arrivals(StrEnum):
    """How requests arrive."""

    ALL = "all"
    """All at the beginning."""
    POISSON = "poisson"
    """Independently of each other: the times between them are exponential."""
    BURSTS = "bursts"
    """Several at a time; the bursts come independently of each other."""


def arrival_times(kind: Arrivals, count: int, rate: float, seed: int) -> list[float]:
    """Return when each request arrives, in seconds after the first.

    Args:
        kind: How requests arrive.
        count: Number of requests.
        rate: Requests per second, on average; not used if all arrive at once.
        seed: The same seed gives the same moments.

    Raises:
        ConfigError: The rate is not allowed.
    """
    if not (math.isfinite(rate) and rate > 0):
        message = f"rate={rate} is not allowed; give a number of requests per second above 0"
        raise ConfigError(message)
    if kind is Arrivals.ALL:
        return [0.0] * count
    together = BURST if kind is Arrivals.BURSTS else 1
    chance = random.Random(seed)
    gaps = [chance.expovariate(rate / together) for _ in range(math.ceil(count / together))]
    begins = accumulate([0.0, *gaps[1:]])
    return [begin for begin in begins for _ in range(together)][:count]
