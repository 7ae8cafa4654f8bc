"""What may come next, as probabilities, and how the sources that say so earn their trust."""

from typing import NamedTuple

import numpy as np

from lookahead.drafting.arrays import Float64Array, Int32Array, Integer
from lookahead.jit import kernel, lean_kernel

OWN, SHARED, RECYCLED = 0, 1, 2
"""Sources: the request itself, the memory that requests share, and the model's own recycled logits."""
MAX_CANDIDATES = 64
MAX_ASKED = 64
MIN_SHARE = 0.005
"""Probability left at which weaker sources are no longer asked."""
TRIALS, HITS = 0, 1


class Candidates(NamedTuple):
    """Scratch space of one prediction.

    Attributes:
        tokens: int32 [MAX_CANDIDATES], the tokens that may follow.
        chances: float64 [MAX_CANDIDATES], the probability of each.
        buckets: int32 [MAX_ASKED], the trust bucket of each source that was asked, in order.
        ends: int32 [MAX_ASKED], how many candidates there were once it had been asked.
    """

    tokens: Int32Array
    chances: Float64Array
    buckets: Int32Array
    ends: Int32Array


@kernel
def new_candidates() -> Candidates:
    """Return empty scratch space."""
    return Candidates(
        np.empty(MAX_CANDIDATES, np.int32),
        np.empty(MAX_CANDIDATES, np.float64),
        np.empty(MAX_ASKED, np.int32),
        np.empty(MAX_ASKED, np.int32),
    )


@lean_kernel
def holds(tokens: Int32Array, begin: Integer, end: Integer, token: Integer) -> bool:
    """Return whether a token is among those from `begin` to `end`."""
    for i in range(begin, end):  # noqa: SIM110  # lean kernels have no generators
        if tokens[i] == token:
            return True
    return False


@lean_kernel
def spend(
    candidates: Candidates,
    begin: int,
    end: int,
    total: float,
    bucket: Integer,
    trust: Float64Array,
    left: float,
    asked: int,
) -> float:
    """Spend a source's share of the probability that is left on the candidates it added.

    Args:
        candidates: those from `begin` to `end` are new; their chances are weights so far.
        begin: the first one added.
        end: how many there are now.
        total: the sum of the added weights.
        bucket: the source's trust bucket.
        trust: Beta counts (trials, hits) [buckets, 2].
        left: the probability that was left.
        asked: how many sources were asked before this one.

    Returns:
        The probability that is left now.
    """
    chances = candidates.chances
    share = left * (trust[bucket, HITS] / trust[bucket, TRIALS])
    for i in range(begin, end):
        chances[i] *= share / total
    candidates.buckets[asked] = bucket
    candidates.ends[asked] = end
    return float(left - share)


@lean_kernel
def credit(candidates: Candidates, asked: int, trust: Float64Array, token: Integer) -> None:
    """Compare a prediction with the `token` that came, source by source down to the first that had it.

    Args:
        candidates: the prediction.
        asked: how many sources it asked.
        trust: Beta counts (trials, hits) [buckets, 2], brought up to date.
        token: what came.
    """
    begin = 0
    for i in range(asked):
        bucket = candidates.buckets[i]
        trust[bucket, TRIALS] += 1.0
        if holds(candidates.tokens, begin, candidates.ends[i], token):
            trust[bucket, HITS] += 1.0
            break
        begin = candidates.ends[i]
