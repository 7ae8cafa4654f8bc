"""Candidates for the next token with their probabilities, and the hit rates that these come from.

The sources are asked one after the other, the most reliable first. Each distributes a share of the remaining
probability over the candidates it adds (prediction by partial matching, PPM); the share is its hit rate, as
counted so far. With hit rates of 3/4 and 1/2:

    source          adds        share of the rest     probabilities      rest
    longest match   cat cat dog   3/4 of 1            cat 0.50 dog 0.25    0.25
    shorter match   cow           1/2 of 0.25         cow 0.125            0.125

If "cow" comes, the first source had a trial without a hit, the second one with a hit.
"""

from typing import NamedTuple

import numpy as np

from lookahead.drafting.arrays import Float64Array, Int32Array, Integer
from lookahead.jit import kernel, lean_kernel

OWN, SHARED, RECYCLED, GUESSED, LUCKY = 0, 1, 2, 3, 4
"""Sources: the request's own text, the memory that requests share, the model's own recycled logits, what is
frequent in answers where none of them names a token, and what the noise of a sampled step favours."""
NOT_DRAFTED = 5
"""The source of a token that no draft had."""
MAX_CANDIDATES = 64
MAX_GROUPS = 64
MIN_SHARE = 0.005
"""Stop asking weaker sources when this much probability remains."""
TRIALS, HITS = 0, 1
"""Columns of hit rates."""


class Candidates(NamedTuple):
    """Workspace of one prediction. A group is what one source added.

    Attributes:
        tokens: int32 [MAX_CANDIDATES], candidates for the next token.
        probabilities: float64 [MAX_CANDIDATES], the probability of each.
        buckets: int32 [MAX_GROUPS], the hit rate's bucket of each group, in the order they were asked.
        ends: int32 [MAX_GROUPS], where each group's candidates end.
    """

    tokens: Int32Array
    probabilities: Float64Array
    buckets: Int32Array
    ends: Int32Array


@kernel
def new_candidates() -> Candidates:
    """Return an empty workspace."""
    return Candidates(
        np.empty(MAX_CANDIDATES, np.int32),
        np.empty(MAX_CANDIDATES, np.float64),
        np.empty(MAX_GROUPS, np.int32),
        np.empty(MAX_GROUPS, np.int32),
    )


@lean_kernel
def is_among(tokens: Int32Array, begin: Integer, end: Integer, token: Integer) -> bool:
    """Return whether `tokens[begin:end]` holds a token."""
    wanted, found = np.int32(token), np.int32(0)
    for i in range(len(tokens[begin:end])):  # without a break, it runs in vectors
        found += np.int32(tokens[begin + i] == wanted)
    return bool(found > 0)


@lean_kernel
def distribute_share(
    candidates: Candidates,
    begin: int,
    end: int,
    total: float,
    bucket: Integer,
    hit_rates: Float64Array,
    remaining: float,
    groups: int,
) -> float:
    """Distribute a source's share of the remaining probability over the candidates it added.

    Args:
        candidates: Those from `begin` to `end` are new; their probabilities are weights so far.
        begin: The first new candidate.
        end: The number of candidates now.
        total: The sum of the new weights.
        bucket: The bucket of the source's hit rate.
        hit_rates: Beta counts (trials, hits) [buckets, 2].
        remaining: The probability that remained.
        groups: How many groups came before this one.

    Returns:
        The probability that remains now.
    """
    probabilities = candidates.probabilities
    share = remaining * (hit_rates[bucket, HITS] / hit_rates[bucket, TRIALS])
    for i in range(begin, end):
        probabilities[i] *= share / total
    candidates.buckets[groups] = bucket
    candidates.ends[groups] = end
    return float(remaining - share)


@lean_kernel
def update_hit_rates(candidates: Candidates, groups: int, hit_rates: Float64Array, token: Integer) -> None:
    """Count a trial for each group down to the first that had the `token` that came, and its hit.

    Args:
        candidates: The prediction.
        groups: How many groups it has.
        hit_rates: Beta counts (trials, hits) [buckets, 2], updated in place.
        token: The token that came.
    """
    begin = 0
    for i in range(groups):
        bucket = candidates.buckets[i]
        hit_rates[bucket, TRIALS] += 1.0
        if is_among(candidates.tokens, begin, candidates.ends[i], token):
            hit_rates[bucket, HITS] += 1.0
            break
        begin = candidates.ends[i]
