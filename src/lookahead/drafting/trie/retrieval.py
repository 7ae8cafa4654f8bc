"""What may follow a context: both tries' matches, longest first, as probabilities (paper, section 4.2.2).

Two tries speak: the request's own (its prompt and its answer so far) and the shared one (all answers).
Contexts are asked longest first, the request's own before the shared one at equal length. Each spends a
share of the probability that is left on the tokens it has seen and its betters have not: a shorter match
adds to a longer one's tokens, never overwrites them ("multi-stage retrieval"). How large a share is
learned while running: of the times when a context of this source, length and variety was asked, how often
was the next token among those it added? This is prediction by partial matching with adaptive escapes.
"""

import numpy as np

from lookahead.drafting.arrays import Float64Array, Int32Array, Integer
from lookahead.drafting.growth.candidates import (
    MAX_CANDIDATES,
    MIN_SHARE,
    OWN,
    SHARED,
    Candidates,
    credit,
    holds,
    spend,
)
from lookahead.drafting.trie.nodes import NONE, NodePool, is_context
from lookahead.jit import kernel

DEEPEST_TRIE = 16
"""The most levels a trie may have: contexts of up to 15 tokens."""
SCAN = 24
"""Children looked at in one context, the most recently seen first."""
VARIETIES = 4


def initial_trust() -> Float64Array:
    """Return Beta counts (trials, hits) [buckets, 2] worth ten trials: longer matches are believed more."""
    depths = np.repeat(np.tile(np.arange(DEEPEST_TRIE), 2), VARIETIES)
    trials = 10.0
    return np.stack([np.full(len(depths), trials), trials * np.minimum(0.95, 0.25 + 0.1 * depths)], axis=1)


@kernel
def trust_bucket(source: int, depth: int, offered: int) -> int:
    """Return the bucket of a context: its source, its length, and how many new tokens it offers."""
    variety = offered - 1 if offered <= 2 else 2 if offered <= 5 else 3
    return (source * DEEPEST_TRIE + depth) * VARIETIES + variety


@kernel
def add_children(pool: NodePool, context: Integer, candidates: Candidates, size: int) -> tuple[int, float]:
    """Add the context's tokens that are not yet candidates, weighted by their counts.

    Returns the new number of candidates and the sum of the added weights.
    """
    known = size
    total = 0.0
    child = pool.first_child[context]
    for _ in range(SCAN):
        if child == NONE or size == MAX_CANDIDATES:
            break
        token = pool.token[child]
        if not holds(candidates.tokens, 0, known, token):
            candidates.tokens[size] = token
            candidates.chances[size] = pool.seen[child]
            total += pool.seen[child]
            size += 1
        child = pool.next_sibling[child]
    return size, total


@kernel
def predict(
    pool: NodePool,
    own: Integer,
    shared: Integer,
    deepest: int,
    stop_words: Int32Array,
    trust: Float64Array,
    candidates: Candidates,
) -> tuple[int, int]:
    """Estimate the next token after the contexts `own` and `shared` (nodes of the two tries).

    Fills `candidates`; returns how many there are and how many contexts were asked.
    """
    left = 1.0
    size = 0
    asked = 0
    while left > MIN_SHARE and size < MAX_CANDIDATES:
        own_is_next = pool.depth[own] >= pool.depth[shared]
        context = own if own_is_next else shared
        if pool.depth[context] == 0:
            break
        if own_is_next:
            own = np.int64(pool.suffix[own])
        else:
            shared = np.int64(pool.suffix[shared])
        if not is_context(pool, context, deepest, stop_words):
            continue
        before = size
        size, total = add_children(pool, context, candidates, size)
        if size == before:
            continue
        bucket = trust_bucket(OWN if own_is_next else SHARED, pool.depth[context], size - before)
        left = spend(candidates, before, size, total, bucket, trust, left, asked)
        asked += 1
    return size, asked


@kernel
def learn_trust(
    pool: NodePool,
    own: Integer,
    shared: Integer,
    deepest: int,
    stop_words: Int32Array,
    trust: Float64Array,
    candidates: Candidates,
    token: Integer,
) -> None:
    """Compare what would be predicted with the `token` that came, context by context to the first hit."""
    _, asked = predict(pool, own, shared, deepest, stop_words, trust, candidates)
    credit(candidates, asked, trust, token)
