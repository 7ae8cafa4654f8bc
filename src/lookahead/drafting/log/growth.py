"""Growing a draft tree out of the logs' matches, best first, and only as far as it is needed."""

import numpy as np

from lookahead.drafting.arrays import Int32Array, Int64Array, Integer
from lookahead.drafting.growth.best_first import (
    OWN_CONTEXT,
    Frontier,
    Growth,
    draft_best,
    emptied,
    is_waiting,
    may_wait,
    push,
)
from lookahead.drafting.growth.candidates import RECYCLED
from lookahead.drafting.log.calibration import source_of
from lookahead.drafting.log.matches import MAX_AT_ONCE, Matches, find_all, following_at, list_by_rank
from lookahead.drafting.log.prediction import (
    CANDIDATES_BEGIN,
    CANDIDATES_END,
    Beliefs,
    learn_at,
    predict_at,
    said_nothing,
    successors_of,
)
from lookahead.drafting.log.ring import GAP, TokenRing
from lookahead.drafting.log.workspace import Sketch
from lookahead.jit import lean_kernel

FEW_MATCHES = 4
"""Where fewer than so many matches are left, shorter runs that end in the drafted path are looked for."""
WORTH_A_LOOK = 0.3
"""… if the node is at least so probable: looking costs as much as drafting several nodes."""
WORTH_ASKING = 0.25
"""What follows a node is asked only where a token a quarter as probable as it would still be drafted."""


@lean_kernel
def matches_that_agree(
    matches: Matches, above: Int32Array, token: Integer, depth: Integer, listed: Int32Array
) -> int:
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


@lean_kernel
def run_to(tail: Int32Array, tree: Growth, node: Integer, run: Int32Array) -> int:
    """Write the last tokens before and on the path to `node` to the end of `run`; return how many."""
    place, at = len(run), np.int64(node)
    while at > 0 and place > 0:
        place -= 1
        run[place] = tree.token_ids[at]
        at = np.int64(tree.parents[at])
    before = len(tail)
    while before > 0 and place > 0:
        place -= 1
        before -= 1
        run[place] = tail[before]
    return len(run) - place


@lean_kernel
def ask_at(sketch: Sketch, node: Integer, own: TokenRing, beliefs: Beliefs) -> None:
    """Ask what may follow a node, whose matches are listed and whose successors are at hand."""
    listed = sketch.listed[sketch.ranges[node, 0] : sketch.ranges[node, 1]]
    depth = sketch.tree.depths[node]
    for i in range(len(listed)):
        sketch.following[i] = following_at(sketch.matches, listed[i], depth)
    predict_at(
        sketch.said, node, own, sketch.matches, listed, sketch.following, sketch.successors, depth, beliefs
    )


@lean_kernel
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


@lean_kernel
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
    tree, matches, lists, ranges, run = sketch.tree, sketch.matches, sketch.listed, sketch.ranges, sketch.run
    parent, begin = tree.parents[node], ranges[node - 1, 1]
    above = lists[ranges[parent, 0] : ranges[parent, 1]]
    size = matches_that_agree(matches, above, tree.token_ids[node], tree.depths[node], lists[begin:])
    room = min(len(matches.ranks) - found, len(lists) - begin)
    if size < FEW_MATCHES and tree.probabilities[node] > WORTH_A_LOOK and room >= MAX_AT_ONCE:
        length = run_to(tail, tree, node, run)
        seen, depth = found, int(tree.depths[node])
        found = find_all(own, shared, readable, run[len(run) - length :], depth, matches, found)
        list_by_rank(matches, seen, found, lists[begin:])
        size = found - seen
    ranges[node, 0], ranges[node, 1] = begin, begin + size
    return found


@lean_kernel
def grow_from_log(
    own: TokenRing,
    shared: TokenRing,
    keys: Int64Array,
    successors: Int32Array,
    readable: Int32Array,
    tail: Int32Array,
    beliefs: Beliefs,
    sketch: Sketch,
    max_nodes: int,
    deepest_draft: int,
    widest: int,
) -> int:
    """Draw the tree under the last of the tokens `tail`; return its size.

    Args:
        own: the request's own log.
        shared: the log of all owners.
        keys: int64 [places], those of the model's recycled successors, see `SuccessorTable`.
        successors: int32 [places, SUCCESSORS].
        readable: int32 [m], the owners that the request may read, its own first.
        tail: int32 [LONGEST_MATCH], the request's last tokens; GAPs before them where it has fewer.
        beliefs: what was learned of the sources.
        sketch: written; it has room for `max_nodes`.
        max_nodes: the most nodes, node 0 included.
        deepest_draft: the most levels below node 0.
        widest: 1 for a single branch, 0 for a tree.
    """
    tree, frontier = sketch.tree, emptied(sketch.frontier, max_nodes)
    tree.token_ids[0], tree.parents[0], tree.depths[0], tree.probabilities[0] = tail[-1], -1, 0, 1.0
    found = find_all(own, shared, readable, tail, 0, sketch.matches, 0)
    list_by_rank(sketch.matches, 0, found, sketch.listed)
    sketch.ranges[0, 0], sketch.ranges[0, 1] = 0, found
    node = 0
    while True:
        depth = tree.depths[node]
        if depth < deepest_draft and may_wait(frontier, tree.probabilities[node] * WORTH_ASKING):
            successors_of(keys, successors, readable, tree.token_ids[node], sketch.successors)
            ask_at(sketch, node, own, beliefs)
            push_said(frontier, sketch, node, widest)
        else:
            said_nothing(sketch.said, node)
        node += 1
        if node >= max_nodes or not is_waiting(frontier):
            break
        row = draft_best(frontier, tree, node)
        sketch.sources[node] = frontier.nodes[row, OWN_CONTEXT]
        found = match_again(own, shared, readable, tail, sketch, node, found)
    sketch.size[0] = node
    return node


@lean_kernel
def learn_from_draft(sketch: Sketch, tokens: Int32Array, beliefs: Beliefs) -> int:
    """Compare the last draft with the tokens that came, as far as it went with them.

    Returns how many of those before the last were drafted from recycled logits.
    """
    tree = sketch.tree
    node, recycled = np.int64(0), 0
    for i in range(len(tokens)):
        if node >= sketch.size[0]:
            break
        learn_at(sketch.said, node, tokens[i], beliefs)
        below = node + 1
        while below < sketch.size[0] and not (
            tree.parents[below] == node and tree.token_ids[below] == tokens[i]
        ):
            below += 1
        node = below
        is_bonus = i + 1 == len(tokens)  # chosen after all that was accepted
        if node < sketch.size[0] and not is_bonus and sketch.sources[node] == RECYCLED:
            recycled += 1
    return recycled
