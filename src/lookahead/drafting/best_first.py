"""Drafting best first: the next node is always the most probable one not yet drafted.

For given probabilities no tree of the same size expects more accepted tokens: the expectation is one plus
the sum of the nodes' path probabilities, and a node is never more probable than its parent.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lookahead.config import DraftMode
from lookahead.drafting.candidates import MOST_CANDIDATES, Candidates, Float64Array
from lookahead.drafting.compilation import kernel
from lookahead.drafting.tree import DraftTree
from lookahead.drafting.trie_nodes import Int32Array, Integer

LEAST_CHANCE = 1e-4
"""A node less probable than this is not worth a place in the frontier."""
MOST_WAITING = round(1 / LEAST_CHANCE)
"""No more nodes ever wait to be drafted: none is another's prefix, so that their chances sum to 1 at most."""

SIZE, ARRIVED = 0, 1


class Frontier(NamedTuple):
    """The nodes that wait to be drafted: a binary heap, most probable first, then first come.

    Attributes:
        chances: float64 [places], by order of arrival.
        nodes: int32 [places, 4], by order of arrival: the draft node above, the token, and the contexts
            there, for stores that keep such.
        heap: int32 [places], orders of arrival.
        meta: int64 [2], how many wait, and how many ever arrived.
    """

    chances: Float64Array
    nodes: Int32Array
    heap: Int32Array
    meta: npt.NDArray[np.int64]


PARENT, TOKEN, OWN_CONTEXT, SHARED_CONTEXT = 0, 1, 2, 3


class Growth(NamedTuple):
    """A draft tree under construction; the columns of a `DraftTree`, longer than needed."""

    token_ids: Int32Array
    parents: Int32Array
    depths: Int32Array
    probabilities: Float64Array


@kernel
def new_growth(most_nodes: int, token: Integer) -> Growth:
    """Return a tree of node 0 alone, with room for `most_nodes`."""
    tree = Growth(
        np.empty(most_nodes, np.int32),
        np.empty(most_nodes, np.int32),
        np.empty(most_nodes, np.int32),
        np.empty(most_nodes, np.float64),
    )
    tree.token_ids[0], tree.parents[0], tree.depths[0], tree.probabilities[0] = token, -1, 0, 1.0
    return tree


@kernel
def first_nodes(tree: Growth, size: int) -> Growth:
    """Return the tree's first `size` nodes."""
    return Growth(tree.token_ids[:size], tree.parents[:size], tree.depths[:size], tree.probabilities[:size])


@kernel
def new_frontier(most_nodes: int) -> Frontier:
    """Return an empty heap with places enough to draft a tree of `most_nodes`."""
    places = min(most_nodes * MOST_CANDIDATES, most_nodes + MOST_WAITING)
    return Frontier(
        np.empty(places, np.float64),
        np.empty((places, 4), np.int32),
        np.empty(places, np.int32),
        np.zeros(2, np.int64),
    )


@kernel
def goes_before(frontier: Frontier, first: Integer, second: Integer) -> bool:
    """Return whether one node, by order of arrival, stands before another in the order of the heap."""
    chance, other = frontier.chances[first], frontier.chances[second]
    return bool(chance > other or (chance == other and first < second))


@kernel
def push(
    frontier: Frontier, chance: float, parent: Integer, token: Integer, own: Integer, shared: Integer
) -> None:
    """Add a node, if it is worth it."""
    arrival = frontier.meta[ARRIVED]
    if chance < LEAST_CHANCE or arrival == len(frontier.chances):
        return
    frontier.chances[arrival] = chance
    frontier.nodes[arrival, PARENT] = parent
    frontier.nodes[arrival, TOKEN] = token
    frontier.nodes[arrival, OWN_CONTEXT] = own
    frontier.nodes[arrival, SHARED_CONTEXT] = shared
    place = frontier.meta[SIZE]
    frontier.meta[SIZE] += 1
    frontier.meta[ARRIVED] += 1
    while place > 0:
        above = (place - 1) // 2
        if not goes_before(frontier, arrival, frontier.heap[above]):
            break
        frontier.heap[place] = frontier.heap[above]
        place = above
    frontier.heap[place] = arrival


@kernel
def pop(frontier: Frontier) -> Integer:
    """Take the most probable node off the heap; return its order of arrival."""
    best = np.int64(frontier.heap[0])
    frontier.meta[SIZE] -= 1
    size = frontier.meta[SIZE]
    last = frontier.heap[size]
    place = 0
    while True:
        below = 2 * place + 1
        if below >= size:
            break
        if below + 1 < size and goes_before(frontier, frontier.heap[below + 1], frontier.heap[below]):
            below += 1
        if goes_before(frontier, last, frontier.heap[below]):
            break
        frontier.heap[place] = frontier.heap[below]
        place = below
    frontier.heap[place] = last
    return best


@kernel
def push_candidates(
    frontier: Frontier,
    candidates: Candidates,
    size: int,
    widest: int,
    chance: float,
    parent: Integer,
    own: Integer,
    shared: Integer,
) -> None:
    """Push what may follow a draft node of probability `chance`; only the best one where `widest` is 1."""
    if widest == 1 and size > 1:
        best = np.argmax(candidates.chances[:size])
        push(frontier, chance * candidates.chances[best], parent, candidates.tokens[best], own, shared)
        return
    for i in range(size):
        push(frontier, chance * candidates.chances[i], parent, candidates.tokens[i], own, shared)


@kernel
def draft_best(frontier: Frontier, tree: Growth, node: Integer) -> Integer:
    """Write the most probable waiting node to the tree's place `node`; return its order of arrival."""
    arrival = pop(frontier)
    parent = frontier.nodes[arrival, PARENT]
    tree.token_ids[node], tree.parents[node] = frontier.nodes[arrival, TOKEN], parent
    tree.depths[node] = tree.depths[parent] + 1
    tree.probabilities[node] = frontier.chances[arrival]
    return arrival


@kernel
def side_by_side(tree: Growth, most_nodes: int) -> Growth:
    """Return the tree's branches as independent chains, the most probable first, as far as they fit.

    Each leaf's path is laid out whole under node 0, so that shared prefixes are repeated.
    """
    size = len(tree.token_ids)
    is_leaf = np.ones(size, np.bool_)
    is_leaf[tree.parents[1:]] = False
    laid = new_growth(most_nodes, tree.token_ids[0])
    end = 1
    for leaf in range(1, size):  # in order of their probability
        length = tree.depths[leaf]
        if not is_leaf[leaf] or end == most_nodes:
            continue
        node: Integer = np.int64(leaf)
        for depth in range(length, 0, -1):
            place = end + depth - 1
            if place < most_nodes:
                laid.token_ids[place] = tree.token_ids[node]
                laid.parents[place] = 0 if depth == 1 else place - 1
                laid.depths[place] = depth
                laid.probabilities[place] = tree.probabilities[node]
            node = np.int64(tree.parents[node])
        end = min(most_nodes, int(end + length))
    return first_nodes(laid, end)


def as_draft_tree(tree: Growth, decoding_length: int, mode: DraftMode) -> DraftTree:
    """Return what was grown as a draft tree, its branches side by side where the mode says so."""
    if mode is DraftMode.PARALLEL:
        tree = side_by_side(tree, decoding_length)
    return DraftTree(tree.token_ids, tree.parents, tree.depths, tree.probabilities)
