"""Building a draft tree best first: the next node is always the most probable one not yet drafted.

For given probabilities no tree of the same size expects more accepted tokens: the expectation is one plus
the sum of the nodes' path probabilities, and a node is never more probable than its parent. Here "cat" has
probability 0.6 after node 0, and "sat" 0.6 after "cat":

    step   drafted      frontier afterwards, most probable first
    0      node 0       cat 0.60      dog 0.30
    1      cat          cat sat 0.36  dog 0.30      cat ran 0.18
    2      cat sat      dog 0.30      cat ran 0.18
"""

from typing import NamedTuple

import numpy as np

from lookahead.drafting.arrays import Float64Array, Int32Array, Integer
from lookahead.drafting.growth.candidates import Candidates
from lookahead.jit import kernel, lean_kernel

MIN_PROBABILITY = 1e-4
"""A node less probable than this is never drafted."""
BEGIN, END = 0, 1


class Frontier(NamedTuple):
    """A priority queue of nodes to draft: most probable first, then first come.

    Its capacity is the number of nodes still to draft. A node after that many better ones would never be
    drafted, so a full frontier refuses it, or drops its last node for a better one.

    Attributes:
        probabilities: float64 [capacity], sorted.
        order: int32 [capacity], the row of `nodes` that belongs to each probability.
        nodes: int32 [capacity, 4]: the parent in the draft, the token, and two numbers for the store.
        meta: int32 [2], where the waiting nodes begin and end; those before the begin have been drafted.
    """

    probabilities: Float64Array
    order: Int32Array
    nodes: Int32Array
    meta: Int32Array


PARENT, TOKEN, PAYLOAD_0, PAYLOAD_1 = 0, 1, 2, 3
"""Columns of `Frontier.nodes`."""


class GrowingTree(NamedTuple):
    """A draft tree under construction: the columns of a `DraftTree`, longer than needed."""

    token_ids: Int32Array
    parents: Int32Array
    depths: Int32Array
    probabilities: Float64Array


@kernel
def new_tree(max_nodes: int, token: Integer) -> GrowingTree:
    """Return a tree of only node 0, with room for `max_nodes`."""
    tree = GrowingTree(
        np.empty(max_nodes, np.int32),
        np.empty(max_nodes, np.int32),
        np.empty(max_nodes, np.int32),
        np.empty(max_nodes, np.float64),
    )
    tree.token_ids[0], tree.parents[0], tree.depths[0], tree.probabilities[0] = token, -1, 0, 1.0
    return tree


@kernel
def first_nodes(tree: GrowingTree, size: int) -> GrowingTree:
    """Return the tree's first `size` nodes."""
    return GrowingTree(
        tree.token_ids[:size], tree.parents[:size], tree.depths[:size], tree.probabilities[:size]
    )


@kernel
def new_frontier(max_nodes: int) -> Frontier:
    """Return an empty frontier for a tree of `max_nodes`, node 0 included."""
    capacity = max_nodes - 1
    return Frontier(
        np.empty(capacity, np.float64),
        np.empty(capacity, np.int32),
        np.empty((capacity, 4), np.int32),
        np.zeros(2, np.int32),
    )


@lean_kernel
def reset_frontier(frontier: Frontier, max_nodes: int) -> Frontier:
    """Return the frontier emptied, for a tree of at most as many nodes as it was made for."""
    frontier.meta[BEGIN] = frontier.meta[END] = 0
    return Frontier(frontier.probabilities[: max_nodes - 1], frontier.order, frontier.nodes, frontier.meta)


@lean_kernel
def has_next(frontier: Frontier) -> bool:
    """Return whether there is a node to draft."""
    return bool(frontier.meta[BEGIN] < frontier.meta[END])


@lean_kernel
def would_accept(frontier: Frontier, probability: float) -> bool:
    """Return whether the frontier would take a node of this probability now."""
    probabilities = frontier.probabilities
    is_full = frontier.meta[END] == len(probabilities)
    return probability >= MIN_PROBABILITY and not (
        is_full and (len(probabilities) == 0 or probability <= probabilities[-1])
    )


@lean_kernel
def push(
    frontier: Frontier,
    probability: float,
    parent: Integer,
    token: Integer,
    payload_0: Integer,
    payload_1: Integer,
) -> None:
    """Insert a node by its probability, unless the frontier refuses it."""
    if not would_accept(frontier, probability):
        return
    probabilities, order, nodes = frontier.probabilities, frontier.order, frontier.nodes
    # numba checks whether an index is negative; max() shows it that these are not
    begin, index = max(0, frontier.meta[BEGIN]), max(0, frontier.meta[END])
    if index < len(probabilities):
        row = index
        frontier.meta[END] += 1
    else:
        index -= 1
        row = np.int64(order[index])  # reuse the row of the node that is dropped
    nodes[row, PARENT], nodes[row, TOKEN] = parent, token
    nodes[row, PAYLOAD_0], nodes[row, PAYLOAD_1] = payload_0, payload_1
    while index > begin and probabilities[index - 1] < probability:
        probabilities[index], order[index] = probabilities[index - 1], order[index - 1]
        index -= 1
    probabilities[index], order[index] = probability, row


@lean_kernel
def push_candidates(
    frontier: Frontier,
    candidates: Candidates,
    size: int,
    is_single: bool,
    probability: float,
    parent: Integer,
    payload_0: Integer,
    payload_1: Integer,
) -> None:
    """Push the candidates after a node of path probability `probability`; only the best if `is_single`."""
    tokens, probabilities = candidates.tokens, candidates.probabilities
    if is_single and size > 1:
        best = np.argmax(probabilities[:size])
        push(frontier, probability * probabilities[best], parent, tokens[best], payload_0, payload_1)
        return
    for i in range(size):
        push(frontier, probability * probabilities[i], parent, tokens[i], payload_0, payload_1)


@lean_kernel
def pop_best(frontier: Frontier, tree: GrowingTree, node: Integer) -> Integer:
    """Move the most probable waiting node to the tree as number `node`; return its row in the frontier."""
    index = frontier.meta[BEGIN]
    frontier.meta[BEGIN] += 1
    row = frontier.order[index]
    parent = frontier.nodes[row, PARENT]
    tree.token_ids[node], tree.parents[node] = frontier.nodes[row, TOKEN], parent
    tree.depths[node] = tree.depths[parent] + 1
    tree.probabilities[node] = frontier.probabilities[index]
    return np.int64(row)
