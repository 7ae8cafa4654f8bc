"""Growing a draft tree out of the logs' matches, best first, and only as far as it is needed."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lookahead.drafting.best_first import (
    OWN_CONTEXT,
    Frontier,
    Growth,
    draft_best,
    is_waiting,
    may_wait,
    new_frontier,
    new_growth,
    push,
)
from lookahead.drafting.compilation import kernel
from lookahead.drafting.log_matches import (
    LONGEST_MATCH,
    MOST_OWN,
    MOST_SHARED,
    Matches,
    find_all,
    following_at,
    list_by_rank,
    new_matches,
)
from lookahead.drafting.log_prediction import (
    CANDIDATES_BEGIN,
    CANDIDATES_END,
    Beliefs,
    Predictions,
    learn_at,
    new_predictions,
    predict_at,
    said_nothing,
    successors_of,
)
from lookahead.drafting.log_ring import GAP, TokenRing
from lookahead.drafting.successors import SUCCESSORS, SuccessorTable
from lookahead.drafting.trie_nodes import Int32Array, Integer
from lookahead.drafting.weighing import source_of

FEW_MATCHES = 4
"""Where fewer than so many matches are left, shorter runs that end in the drafted path are looked for."""
WORTH_A_LOOK = 0.1
"""… if the node is at least so probable: looking costs as much as drafting several nodes."""
MOST_LOOKS = 64
WORTH_ASKING = 0.5
"""What follows a node is asked only where a token half as probable as the node would still be drafted."""


class Sketch(NamedTuple):
    """A request's last draft: its tree, the matches behind it, and what was said at each of its nodes.

    Attributes:
        tree: the draft's columns.
        sources: int32 [nodes], where each node comes from: OWN, SHARED or RECYCLED.
        size: int64 [1], nodes of the draft; 0 before the first.
        matches: all matches found for it.
        listed: int32 [room], the matches at each node, by rank.
        nodes: int32 [nodes, 2], where each node's matches begin and end in `listed`.
        said: what may follow each node.
    """

    tree: Growth
    sources: Int32Array
    size: npt.NDArray[np.int64]
    matches: Matches
    listed: Int32Array
    nodes: Int32Array
    said: Predictions


def new_sketch(most_nodes: int) -> Sketch:
    """Return room for drafts of at most `most_nodes`."""
    most = (MOST_OWN + MOST_SHARED) * (1 + min(most_nodes, MOST_LOOKS))
    return Sketch(
        new_growth(most_nodes, 0),
        np.zeros(most_nodes, np.int32),
        np.zeros(1, np.int64),
        new_matches(most),
        np.empty(4 * most, np.int32),
        np.zeros((most_nodes, 2), np.int32),
        new_predictions(most_nodes),
    )


@kernel
def matches_that_agree(matches: Matches, above: Int32Array, token: Integer, depth: Integer, listed: Int32Array) -> int:
    """Write those of the parent's matches that go on with `token`, and then with another, to `listed`.

    `depth` is the new node's. Returns how many there are.
    """
    size = 0
    for i in range(min(len(above), len(listed))):
        match = above[i]
        if following_at(matches, match, depth - 1) == token and following_at(matches, match, depth) != GAP:
            listed[size] = match
            size += 1
    return size


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
def push_said(frontier: Frontier, sketch: Sketch, node: Integer, widest: int) -> None:
    """Push what may follow a node; only the best of it where `widest` is 1."""
    said, chance = sketch.said, sketch.tree.probabilities[node]
    begin, end = said.nodes[node, CANDIDATES_BEGIN], said.nodes[node, CANDIDATES_END]
    tokens, features, chances = said.tokens, said.features, said.chances
    if widest == 1 and end > begin:
        begin += np.argmax(chances[begin:end])
        end = begin + 1
    for i in range(begin, end):
        push(frontier, chance * chances[i], node, tokens[i], source_of(features[i]), 0)


@kernel
def grow_from_log(
    own: TokenRing,
    shared: TokenRing,
    table: SuccessorTable,
    readable: Int32Array,
    tail: Int32Array,
    beliefs: Beliefs,
    sketch: Sketch,
    most_nodes: int,
    deepest_draft: int,
    widest: int,
) -> int:
    """Draw the tree under the last of the tokens `tail` (1 to LONGEST_MATCH); return its size.

    Args:
        own: the request's own log.
        shared: the log of all owners.
        table: the model's recycled successors, of all owners.
        readable: int32 [m], the owners that the request may read, its own first.
        tail: int32, the request's last tokens.
        beliefs: what was learned of the sources.
        sketch: written.
        most_nodes: the most nodes, node 0 included; the sketch has room for them.
        deepest_draft: the most levels below node 0.
        widest: 1 for a single branch, 0 for a tree.
    """
    tree, matches, lists, ranges, said = sketch.tree, sketch.matches, sketch.listed, sketch.nodes, sketch.said
    tree.token_ids[0] = tail[-1]
    frontier = new_frontier(most_nodes)
    successors = np.empty(SUCCESSORS, np.int32)
    found = find_all(own, shared, readable, tail, 0, matches, 0)
    list_by_rank(matches, 0, found, lists)
    ranges[0, 0], ranges[0, 1] = 0, found
    node = 0
    while True:
        depth = tree.depths[node]
        if depth < deepest_draft and may_wait(frontier, tree.probabilities[node] * WORTH_ASKING):
            successors_of(table, readable, tree.token_ids[node], successors)
            listed = lists[ranges[node, 0] : ranges[node, 1]]
            predict_at(said, node, own, matches, listed, successors, depth, beliefs)
            push_said(frontier, sketch, node, widest)
        else:
            said_nothing(said, node)
        node += 1
        if node >= most_nodes or not is_waiting(frontier):
            break
        row = draft_best(frontier, tree, node)
        sketch.sources[node] = frontier.nodes[row, OWN_CONTEXT]
        found = match_again(own, shared, readable, tail, sketch, node, found)
    sketch.size[0] = node
    return node


@kernel
def match_again(
    own: TokenRing,
    shared: TokenRing,
    readable: Int32Array,
    tail: Int32Array,
    sketch: Sketch,
    node: Integer,
    found: int,
) -> int:
    """List a new node's matches: its parent's that agree, or fresh ones where they are few.

    Returns how many matches there are in all.
    """
    tree, matches, lists, ranges = sketch.tree, sketch.matches, sketch.listed, sketch.nodes
    parent, begin = tree.parents[node], ranges[node - 1, 1]
    above = lists[ranges[parent, 0] : ranges[parent, 1]]
    size = matches_that_agree(matches, above, tree.token_ids[node], tree.depths[node], lists[begin:])
    room = min(len(matches.lengths) - found, len(lists) - begin)
    if size < FEW_MATCHES and tree.probabilities[node] > WORTH_A_LOOK and room >= MOST_OWN + MOST_SHARED:
        run = run_to(tail, tree, node)
        seen, found = found, find_all(own, shared, readable, run, int(tree.depths[node]), matches, found)
        list_by_rank(matches, seen, found, lists[begin:])
        size = found - seen
    ranges[node, 0], ranges[node, 1] = begin, begin + size
    return found


@kernel
def learn_from_draft(sketch: Sketch, tokens: Int32Array, beliefs: Beliefs) -> None:
    """Compare the last draft with the tokens that came, as far as it went with them; it is used up then."""
    tree = sketch.tree
    node = np.int64(0)
    for i in range(len(tokens)):
        if node >= sketch.size[0]:
            break
        learn_at(sketch.said, node, tokens[i], beliefs)
        below = node + 1
        while below < sketch.size[0] and not (tree.parents[below] == node and tree.token_ids[below] == tokens[i]):
            below += 1
        node = below
    sketch.size[0] = 0
