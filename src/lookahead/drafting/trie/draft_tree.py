"""Building a draft tree out of the tries (paper, section 4.2.3): retrieve at each node, draft best first."""

import numpy as np

from lookahead.drafting.arrays import Float64Array, Int32Array, Integer
from lookahead.drafting.growth.best_first import (
    PAYLOAD_0,
    PAYLOAD_1,
    TOKEN,
    GrowingTree,
    first_nodes,
    has_next,
    new_frontier,
    new_tree,
    pop_best,
    push_candidates,
)
from lookahead.drafting.growth.candidates import new_candidates
from lookahead.drafting.trie.nodes import (
    LAST_TOKEN,
    OWN_CONTEXT,
    OWN_ROOT,
    SHARED_CONTEXT,
    SHARED_ROOT,
    NodePool,
    advance,
)
from lookahead.drafting.trie.retrieval import retrieve
from lookahead.jit import kernel


@kernel
def build_draft_tree(
    pool: NodePool,
    request: Int32Array,
    max_depth: int,
    stop_words: Int32Array,
    hit_rates: Float64Array,
    max_nodes: int,
    branch_length: int,
    is_single: bool,
) -> GrowingTree:
    """Return the draft tree under a request's last token: at most `max_nodes` nodes, node 0 included.

    A waiting node carries its parent's contexts in the two tries as its payload. When it is drafted, both
    move on by its token, so that a branch can grow deeper than the trie is.
    """
    tree = new_tree(max_nodes, request[LAST_TOKEN])
    own_root, shared_root = np.int64(request[OWN_ROOT]), np.int64(request[SHARED_ROOT])
    own: Integer = np.int64(request[OWN_CONTEXT])
    shared: Integer = np.int64(request[SHARED_CONTEXT])
    frontier = new_frontier(max_nodes)
    candidates = new_candidates()
    node = 0
    while True:
        if tree.depths[node] < branch_length and node + 1 < max_nodes:
            size, _ = retrieve(pool, own, shared, max_depth, stop_words, hit_rates, candidates)
            push_candidates(
                frontier, candidates, size, is_single, tree.probabilities[node], node, own, shared
            )
        node += 1
        if node >= max_nodes or not has_next(frontier):
            break
        drafted = frontier.nodes[pop_best(frontier, tree, node)]
        token = drafted[TOKEN]
        own = advance(pool, own_root, np.int64(drafted[PAYLOAD_0]), token, max_depth, stop_words)
        shared = advance(pool, shared_root, np.int64(drafted[PAYLOAD_1]), token, max_depth, stop_words)
    return first_nodes(tree, node)
