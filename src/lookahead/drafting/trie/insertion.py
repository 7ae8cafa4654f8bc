"""Trie insertion (paper, section 4.2.1): a token goes under every context that it follows."""

import numpy as np

from lookahead.drafting.arrays import Float64Array, Int32Array, Integer
from lookahead.drafting.growth.candidates import Candidates, new_candidates
from lookahead.drafting.trie.nodes import (
    CLOCK,
    NONE,
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
from lookahead.drafting.trie.retrieval import learn_trust
from lookahead.jit import kernel

OWN_ROOT, OWN_CONTEXT, SHARED_ROOT, SHARED_CONTEXT, LAST_TOKEN = 0, 1, 2, 3, 4
"""What a request's row of five int32 holds."""


@kernel
def insert_tokens(
    pool: NodePool,
    request: Int32Array,
    tokens: Int32Array,
    is_output: bool,
    deepest: int,
    stop_words: Int32Array,
    trust: Float64Array,
) -> int:
    """Insert tokens while nodes last; return how many were inserted.

    Prompts go into the request's own trie alone, outputs into both.
    """
    candidates = new_candidates()
    for i in range(len(tokens)):
        if available(pool) < 2 * deepest:
            return i
        insert_token(pool, request, tokens[i], is_output, deepest, stop_words, trust, candidates)
    return len(tokens)


@kernel
def insert_token(
    pool: NodePool,
    request: Int32Array,
    token: Integer,
    is_output: bool,
    deepest: int,
    stop_words: Int32Array,
    trust: Float64Array,
    candidates: Candidates,
) -> None:
    """Insert one token; there are nodes enough."""
    own, shared = np.int64(request[OWN_CONTEXT]), np.int64(request[SHARED_CONTEXT])
    own_root, shared_root = np.int64(request[OWN_ROOT]), np.int64(request[SHARED_ROOT])
    if is_output:
        learn_trust(pool, own, shared, deepest, stop_words, trust, candidates, token)
        request[SHARED_CONTEXT] = extend(pool, shared_root, shared, token, deepest, stop_words)
    else:
        request[SHARED_CONTEXT] = shared_root  # what a user wrote is no context in what others may see
    request[OWN_CONTEXT] = extend(pool, own_root, own, token, deepest, stop_words)
    request[LAST_TOKEN] = token


@kernel
def follow_token(
    pool: NodePool, request: Int32Array, token: Integer, is_output: bool, deepest: int, stop_words: Int32Array
) -> None:
    """Lead the request's contexts on without inserting: the memory is full."""
    own_root, shared_root = np.int64(request[OWN_ROOT]), np.int64(request[SHARED_ROOT])
    own, shared = np.int64(request[OWN_CONTEXT]), np.int64(request[SHARED_CONTEXT])
    request[OWN_CONTEXT] = advance(pool, own_root, own, token, deepest, stop_words)
    request[SHARED_CONTEXT] = (
        advance(pool, shared_root, shared, token, deepest, stop_words) if is_output else shared_root
    )
    request[LAST_TOKEN] = token


@kernel
def visit_child(pool: NodePool, parent: Integer, token: Integer) -> Integer:
    """Count one more `token` after `parent`: find or make the child and put it in front."""
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


@kernel
def extend(
    pool: NodePool, root: Integer, tip: Integer, token: Integer, deepest: int, stop_words: Int32Array
) -> Integer:
    """Insert `token` after the context `tip` and all its suffixes; return the new longest context.

    Takes at most `deepest` nodes.
    """
    pool.meta[CLOCK] += 1
    longest: Integer = NONE
    longer: Integer = NONE
    context = tip
    while True:
        if is_context(pool, context, deepest, stop_words):
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
