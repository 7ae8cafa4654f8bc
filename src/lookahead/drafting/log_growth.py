"""Growing a draft tree out of the logs' matches, best first, and only as far as it is needed."""

import numpy as np

from lookahead.drafting.best_first import (
    SIZE,
    Growth,
    draft_best,
    first_nodes,
    new_frontier,
    new_growth,
    push_candidates,
)
from lookahead.drafting.candidates import Float64Array, new_candidates
from lookahead.drafting.compilation import kernel
from lookahead.drafting.log_matches import (
    LONGEST_MATCH,
    MOST_OWN,
    MOST_SHARED,
    Matches,
    continuations,
    find_all,
    list_by_rank,
    new_matches,
    predict_next,
)
from lookahead.drafting.log_ring import GAP, TokenRing
from lookahead.drafting.trie_nodes import Int32Array, Integer

FEW_MATCHES = 4
"""Where fewer than so many matches are left, shorter runs that end in the drafted path are looked for."""
WORTH_A_LOOK = 0.1
"""… if the node is at least so probable: looking costs as much as drafting several nodes."""
MOST_LOOKS = 64


@kernel
def matches_that_agree(
    own: TokenRing,
    shared: TokenRing,
    matches: Matches,
    above: Int32Array,
    token: Integer,
    depth: Integer,
    listed: Int32Array,
) -> int:
    """Write those of the parent's matches that go on with `token`, and then with another, to `listed`.

    `depth` is the new node's. Returns how many there are.
    """
    following = np.empty(len(above), np.int32)
    continuations(own, shared, matches, above, depth - 1, following)
    size = 0
    for i in range(min(len(above), len(listed))):
        if following[i] == token:
            listed[size] = above[i]
            size += 1
    continuations(own, shared, matches, listed[:size], depth, following)
    kept = 0
    for i in range(size):
        if following[i] != GAP:
            listed[kept] = listed[i]
            kept += 1
    return kept


@kernel
def run_to(tail: Int32Array, tree: Growth, node: Integer) -> Int32Array:
    """Return the last tokens before and on the path to `node`, LONGEST_MATCH of them at most."""
    depth = int(tree.depths[node])
    run = np.empty(len(tail) + depth, np.int32)
    run[: len(tail)] = tail
    at: Integer = np.int64(node)
    for place in range(len(run) - 1, len(tail) - 1, -1):
        run[place] = tree.token_ids[at]
        at = np.int64(tree.parents[at])
    return run[max(0, len(run) - LONGEST_MATCH) :]


@kernel
def grow_from_log(
    own: TokenRing,
    shared: TokenRing,
    tail: Int32Array,
    trust: Float64Array,
    most_nodes: int,
    deepest_draft: int,
    widest: int,
) -> Growth:
    """Return the tree under the last of the tokens `tail` (1 to LONGEST_MATCH), at most `most_nodes`."""
    tree = new_growth(most_nodes, tail[-1])
    frontier = new_frontier(most_nodes)
    candidates = new_candidates()
    most = (MOST_OWN + MOST_SHARED) * (1 + min(most_nodes, MOST_LOOKS))
    matches = new_matches(most)
    found = find_all(own, shared, tail, 0, matches, 0)
    lists = np.empty(4 * most, np.int32)
    begins, ends = np.zeros(most_nodes, np.int32), np.zeros(most_nodes, np.int32)
    list_by_rank(matches, 0, found, lists)
    ends[0] = found
    node = 0
    while True:
        if tree.depths[node] < deepest_draft and node + 1 < most_nodes:
            listed = lists[begins[node] : ends[node]]
            size, _ = predict_next(own, shared, matches, listed, tree.depths[node], trust, candidates)
            push_candidates(frontier, candidates, size, widest, tree.probabilities[node], node, 0, 0)
        node += 1
        if node >= most_nodes or frontier.meta[SIZE] == 0:
            break
        draft_best(frontier, tree, node)
        parent, begin = tree.parents[node], ends[node - 1]
        above = lists[begins[parent] : ends[parent]]
        size = matches_that_agree(
            own, shared, matches, above, tree.token_ids[node], tree.depths[node], lists[begin:]
        )
        room = min(len(matches.places) - found, len(lists) - begin)
        if size < FEW_MATCHES and tree.probabilities[node] > WORTH_A_LOOK and room >= MOST_OWN + MOST_SHARED:
            run = run_to(tail, tree, node)
            seen, found = found, find_all(own, shared, run, int(tree.depths[node]), matches, found)
            list_by_rank(matches, seen, found, lists[begin:])
            size = found - seen
        begins[node], ends[node] = begin, begin + size
    return first_nodes(tree, node)
