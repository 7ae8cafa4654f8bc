"""Drafting best first: the next node is always the most probable one not yet drafted.

For given probabilities no tree of the same size expects more accepted tokens: the expectation is one plus
the sum of the nodes' path probabilities, and a node is never more probable than its parent.
"""

from typing import NamedTuple

import numpy as np

from lookahead.drafting.arrays import Float64Array, Int32Array, Integer
from lookahead.drafting.growth.candidates import Candidates
from lookahead.jit import kernel, lean_kernel

MIN_PROBABILITY = 1e-4
"""A node less probable than this is not worth a place in the frontier."""
BEGIN, END = 0, 1


class Frontier(NamedTuple):
    """The nodes that wait to be drafted, most probable first, then first come.

    There are places for as many as will be drafted: a node that as many others go before never will be, so
    that it is refused, or loses its place to a better one.

    Attributes:
        chances: float64 [places], sorted.
        order: int32 [places], where each one's row of `nodes` is.
        nodes: int32 [places, 4]: the draft node above, the token, and two numbers that a store keeps of it.
        meta: int32 [2], the places where those that wait begin and end; before them are those drafted.
    """

    chances: Float64Array
    order: Int32Array
    nodes: Int32Array
    meta: Int32Array


PARENT, TOKEN, OWN_CONTEXT, SHARED_CONTEXT = 0, 1, 2, 3


class Growth(NamedTuple):
    """A draft tree under construction; the columns of a `DraftTree`, longer than needed."""

    token_ids: Int32Array
    parents: Int32Array
    depths: Int32Array
    probabilities: Float64Array


@kernel
def new_growth(max_nodes: int, token: Integer) -> Growth:
    """Return a tree of node 0 alone, with room for `max_nodes`."""
    tree = Growth(
        np.empty(max_nodes, np.int32),
        np.empty(max_nodes, np.int32),
        np.empty(max_nodes, np.int32),
        np.empty(max_nodes, np.float64),
    )
    tree.token_ids[0], tree.parents[0], tree.depths[0], tree.probabilities[0] = token, -1, 0, 1.0
    return tree


@kernel
def first_nodes(tree: Growth, size: int) -> Growth:
    """Return the tree's first `size` nodes."""
    return Growth(tree.token_ids[:size], tree.parents[:size], tree.depths[:size], tree.probabilities[:size])


@kernel
def new_frontier(max_nodes: int) -> Frontier:
    """Return an empty frontier for a tree of `max_nodes`, node 0 included."""
    places = max_nodes - 1
    return Frontier(
        np.empty(places, np.float64),
        np.empty(places, np.int32),
        np.empty((places, 4), np.int32),
        np.zeros(2, np.int32),
    )


@lean_kernel
def emptied(frontier: Frontier, max_nodes: int) -> Frontier:
    """Return a frontier without what waited there, for a tree of at most as many nodes as it was made for."""
    frontier.meta[BEGIN] = frontier.meta[END] = 0
    return Frontier(frontier.chances[: max_nodes - 1], frontier.order, frontier.nodes, frontier.meta)


@lean_kernel
def is_waiting(frontier: Frontier) -> bool:
    """Return whether there is a node to draft."""
    return bool(frontier.meta[BEGIN] < frontier.meta[END])


@lean_kernel
def may_wait(frontier: Frontier, chance: float) -> bool:
    """Return whether a node of this probability would be given a place now."""
    chances = frontier.chances
    is_full = frontier.meta[END] == len(chances)
    return chance >= MIN_PROBABILITY and not (is_full and (len(chances) == 0 or chance <= chances[-1]))


@lean_kernel
def push(
    frontier: Frontier, chance: float, parent: Integer, token: Integer, own: Integer, shared: Integer
) -> None:
    """Add a node, if it is worth it."""
    if not may_wait(frontier, chance):
        return
    chances, order, nodes = frontier.chances, frontier.order, frontier.nodes
    # numba lets an index be negative, and looks at each; max() tells it that these cannot be
    begin, place = max(0, frontier.meta[BEGIN]), max(0, frontier.meta[END])
    if place < len(chances):
        row = place
        frontier.meta[END] += 1
    else:
        place -= 1
        row = np.int64(order[place])  # of the one that loses its place
    nodes[row, PARENT], nodes[row, TOKEN] = parent, token
    nodes[row, OWN_CONTEXT], nodes[row, SHARED_CONTEXT] = own, shared
    while place > begin and chances[place - 1] < chance:
        chances[place], order[place] = chances[place - 1], order[place - 1]
        place -= 1
    chances[place], order[place] = chance, row


@lean_kernel
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


@lean_kernel
def draft_best(frontier: Frontier, tree: Growth, node: Integer) -> Integer:
    """Write the most probable waiting node to the tree's place `node`; return its row of the frontier."""
    place = frontier.meta[BEGIN]
    frontier.meta[BEGIN] += 1
    row = frontier.order[place]
    parent = frontier.nodes[row, PARENT]
    tree.token_ids[node], tree.parents[node] = frontier.nodes[row, TOKEN], parent
    tree.depths[node] = tree.depths[parent] + 1
    tree.probabilities[node] = frontier.chances[place]
    return np.int64(row)
