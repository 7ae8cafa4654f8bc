"""Growing a draft tree out of the tries, best first."""

import numpy as np

from lookahead.drafting.arrays import Float64Array, Int32Array, Integer
from lookahead.drafting.growth.best_first import (
    OWN_CONTEXT,
    SHARED_CONTEXT,
    TOKEN,
    Growth,
    draft_best,
    first_nodes,
    is_waiting,
    new_frontier,
    new_growth,
    push_candidates,
)
from lookahead.drafting.growth.candidates import new_candidates
from lookahead.drafting.trie.nodes import NodePool, advance
from lookahead.drafting.trie.retrieval import predict
from lookahead.jit import kernel


@kernel
def grow_tree(
    pool: NodePool,
    request: Int32Array,
    deepest: int,
    stop_words: Int32Array,
    trust: Float64Array,
    max_nodes: int,
    deepest_draft: int,
    widest: int,
) -> Growth:
    """Return the tree under a request's last token: at most `max_nodes` nodes, node 0 included.

    `request` is [own root, own context, shared root, shared context, last token].
    """
    tree = new_growth(max_nodes, request[4])
    own_root, shared_root = np.int64(request[0]), np.int64(request[2])
    own: Integer = np.int64(request[1])
    shared: Integer = np.int64(request[3])
    frontier = new_frontier(max_nodes)
    candidates = new_candidates()
    node = 0
    while True:
        if tree.depths[node] < deepest_draft and node + 1 < max_nodes:
            size, _ = predict(pool, own, shared, deepest, stop_words, trust, candidates)
            push_candidates(frontier, candidates, size, widest, tree.probabilities[node], node, own, shared)
        node += 1
        if node >= max_nodes or not is_waiting(frontier):
            break
        drafted = frontier.nodes[draft_best(frontier, tree, node)]
        token = drafted[TOKEN]
        own = advance(pool, own_root, np.int64(drafted[OWN_CONTEXT]), token, deepest, stop_words)
        shared = advance(pool, shared_root, np.int64(drafted[SHARED_CONTEXT]), token, deepest, stop_words)
    return first_nodes(tree, node)
