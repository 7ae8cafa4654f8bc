"""Trie insertion (paper, section 4.2.1): a token becomes a child of every context that it follows.

The context is the longest run that the request's tokens end with; its suffix links lead to all shorter ones.
Inserting c after … a b visits three nodes, without a search:

    root ─┬─ a ── b ── c ◄── 1.  child c of the context a b
          ├─ b ── c      ◄── 2.  child c of its suffix b
          └─ c           ◄── 3.  child c of the root         then  a b c ─suffix─► b c ─suffix─► c ─► root

The paper inserts a prompt's branches and an answer's into one trie. Here a prompt goes only into the
request's own trie, and an answer into that and the shared one.
"""

import numpy as np

from lookahead.drafting.arrays import Float64Array, Int32Array, Integer
from lookahead.drafting.growth.candidates import Candidates, new_candidates
from lookahead.drafting.trie.nodes import (
    CLOCK,
    LAST_TOKEN,
    NONE,
    OWN_CONTEXT,
    OWN_ROOT,
    SHARED_CONTEXT,
    SHARED_ROOT,
    NodePool,
    advance,
    available,
    find_child,
    hash_node,
    is_context,
    link_first,
    take_node,
    unlink,
)
from lookahead.drafting.trie.retrieval import learn_hit_rates
from lookahead.jit import kernel


@kernel
def insert_tokens(
    pool: NodePool,
    request: Int32Array,
    tokens: Int32Array,
    is_output: bool,
    max_depth: int,
    stop_words: Int32Array,
    hit_rates: Float64Array,
) -> int:
    """Insert tokens while nodes are available; return how many were inserted.

    Prompts go only into the request's own trie, outputs into both.
    """
    candidates = new_candidates()
    for i in range(len(tokens)):
        if available(pool) < 2 * max_depth:
            return i
        insert_token(pool, request, tokens[i], is_output, max_depth, stop_words, hit_rates, candidates)
    return len(tokens)


@kernel
def insert_token(
    pool: NodePool,
    request: Int32Array,
    token: Integer,
    is_output: bool,
    max_depth: int,
    stop_words: Int32Array,
    hit_rates: Float64Array,
    candidates: Candidates,
) -> None:
    """Insert one token; the caller has checked that enough nodes are available."""
    own, shared = np.int64(request[OWN_CONTEXT]), np.int64(request[SHARED_CONTEXT])
    own_root, shared_root = np.int64(request[OWN_ROOT]), np.int64(request[SHARED_ROOT])
    if is_output:
        learn_hit_rates(pool, own, shared, max_depth, stop_words, hit_rates, candidates, token)
        request[SHARED_CONTEXT] = insert_after_context(
            pool, shared_root, shared, token, max_depth, stop_words
        )
    else:
        request[SHARED_CONTEXT] = shared_root  # a prompt is never a context in the shared trie
    request[OWN_CONTEXT] = insert_after_context(pool, own_root, own, token, max_depth, stop_words)
    request[LAST_TOKEN] = token


@kernel
def follow_token(
    pool: NodePool,
    request: Int32Array,
    token: Integer,
    is_output: bool,
    max_depth: int,
    stop_words: Int32Array,
) -> None:
    """Advance the request's contexts without inserting the token: the memory is full."""
    own_root, shared_root = np.int64(request[OWN_ROOT]), np.int64(request[SHARED_ROOT])
    own, shared = np.int64(request[OWN_CONTEXT]), np.int64(request[SHARED_CONTEXT])
    request[OWN_CONTEXT] = advance(pool, own_root, own, token, max_depth, stop_words)
    request[SHARED_CONTEXT] = (
        advance(pool, shared_root, shared, token, max_depth, stop_words) if is_output else shared_root
    )
    request[LAST_TOKEN] = token


@kernel
def insert_after_context(
    pool: NodePool, root: Integer, context: Integer, token: Integer, max_depth: int, stop_words: Int32Array
) -> Integer:
    """Insert `token` after a context and all its suffixes; return the new longest context.

    Takes at most `max_depth` nodes.
    """
    pool.meta[CLOCK] += 1
    longest: Integer = NONE
    longer: Integer = NONE
    while True:
        if is_context(pool, context, max_depth, stop_words):
            node = visit_child(pool, context, token)
            if longer == NONE:
                longest = node
            else:
                pool.suffix[longer] = node
            longer = node
        if context == root:
            break
        context = pool.suffix[context]
    pool.suffix[longer] = root
    return longest


@kernel
def visit_child(pool: NodePool, parent: Integer, token: Integer) -> Integer:
    """Count one more `token` after `parent`: find or make the child and make it the first of its siblings."""
    node = find_child(pool, parent, token)
    if node == NONE:
        node = take_node(pool)
        pool.token[node] = token
        pool.parent[node] = parent
        pool.depth[node] = pool.depth[parent] + 1
        hash_node(pool, node)
        link_first(pool, node)
    elif pool.first_child[parent] != node:
        unlink(pool, node)
        link_first(pool, node)
    pool.seen[node] += 1
    pool.stamp[node] = pool.meta[CLOCK]
    return node
