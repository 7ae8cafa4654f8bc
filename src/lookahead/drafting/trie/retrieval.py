"""Trie retrieval (paper, section 4.2.3): the tokens that followed the matched contexts, with probabilities.

There are two tries: the request's own (its prompt and its answer so far) and the shared one (all answers).
Contexts are tried longest first, the request's own before the shared one at equal length. A shorter match
only adds tokens to those of a longer one ("multi-stage retrieval"). Here for the context a b:

    context      children      adds      share of the rest
    own a b      c:2           c         hit rate of own contexts of length 2 that add one token
    shared a b   c:1, d:3      d         hit rate of shared contexts of length 2 that add one token
    own b        c:3           nothing   -

A hit rate says how often the next token was among those that such a context added. It is learned while
running; this is prediction by partial matching (PPM) with adaptive escapes.
"""

import numpy as np

from lookahead.drafting.arrays import Float64Array, Int32Array, Integer
from lookahead.drafting.growth.candidates import (
    MAX_CANDIDATES,
    MIN_SHARE,
    OWN,
    SHARED,
    Candidates,
    distribute_share,
    is_among,
    update_hit_rates,
)
from lookahead.drafting.trie.nodes import NONE, NodePool, is_context
from lookahead.jit import kernel

MAX_TRIE_DEPTH = 16
"""The maximum depth of a trie: contexts of up to 15 tokens."""
MAX_CHILDREN = 24
"""Children read in one context, the most recently seen first."""
VARIETIES = 4


def initial_hit_rates() -> Float64Array:
    """Return Beta counts (trials, hits) [buckets, 2] worth ten trials: higher rates for longer contexts."""
    depths = np.repeat(np.tile(np.arange(MAX_TRIE_DEPTH), 2), VARIETIES)
    trials = 10.0
    return np.stack([np.full(len(depths), trials), trials * np.minimum(0.95, 0.25 + 0.1 * depths)], axis=1)


@kernel
def context_bucket(source: int, depth: int, offered: int) -> int:
    """Return the bucket of a context's hit rate, from its source, length, and how many tokens it adds."""
    variety = offered - 1 if offered <= 2 else 2 if offered <= 5 else 3
    return (source * MAX_TRIE_DEPTH + depth) * VARIETIES + variety


@kernel
def add_children(pool: NodePool, context: Integer, candidates: Candidates, size: int) -> tuple[int, float]:
    """Add the context's tokens that are not yet candidates, weighted by their counts.

    Returns the new number of candidates and the sum of the added weights.
    """
    known = size
    total = 0.0
    child = pool.first_child[context]
    for _ in range(MAX_CHILDREN):
        if child == NONE or size == MAX_CANDIDATES:
            break
        token = pool.token[child]
        if not is_among(candidates.tokens, 0, known, token):
            candidates.tokens[size] = token
            candidates.probabilities[size] = pool.seen[child]
            total += pool.seen[child]
            size += 1
        child = pool.next_sibling[child]
    return size, total


@kernel
def retrieve(
    pool: NodePool,
    own: Integer,
    shared: Integer,
    max_depth: int,
    stop_words: Int32Array,
    hit_rates: Float64Array,
    candidates: Candidates,
) -> tuple[int, int]:
    """Fill `candidates` with what may follow the contexts `own` and `shared`, nodes of the two tries.

    Returns how many candidates there are, and how many contexts added some.
    """
    remaining = 1.0
    size = 0
    groups = 0
    while remaining > MIN_SHARE and size < MAX_CANDIDATES:
        own_is_next = pool.depth[own] >= pool.depth[shared]
        context = own if own_is_next else shared
        if pool.depth[context] == 0:
            break
        if own_is_next:
            own = np.int64(pool.suffix[own])
        else:
            shared = np.int64(pool.suffix[shared])
        if not is_context(pool, context, max_depth, stop_words):
            continue
        before = size
        size, total = add_children(pool, context, candidates, size)
        if size == before:
            continue
        bucket = context_bucket(OWN if own_is_next else SHARED, pool.depth[context], size - before)
        remaining = distribute_share(candidates, before, size, total, bucket, hit_rates, remaining, groups)
        groups += 1
    return size, groups


@kernel
def learn_hit_rates(
    pool: NodePool,
    own: Integer,
    shared: Integer,
    max_depth: int,
    stop_words: Int32Array,
    hit_rates: Float64Array,
    candidates: Candidates,
    token: Integer,
) -> None:
    """Compare what retrieval gives with the `token` that came, and update the hit rates."""
    _, groups = retrieve(pool, own, shared, max_depth, stop_words, hit_rates, candidates)
    update_hit_rates(candidates, groups, hit_rates, token)
