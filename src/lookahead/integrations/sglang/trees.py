"""Draft trees as SGLang's NGRAM worker reads them: breadth first, of one size, with a mask.

A tree of 5 nodes for a worker that verifies 6; a node sees itself and its ancestors:

    the ─┬─ cat ─┬─ sat         tokens   the  cat  dog  sat  ran   0
         │       └─ ran         parents   -1    0    0    1    1   0
         └─ dog
"""

import numpy as np

from lookahead.drafting.arrays import Int64Array
from lookahead.drafting.tree import DraftTree


def laid_out(tree: DraftTree, nodes: int, *, is_chain: bool) -> Int64Array:
    """Return a tree's tokens and parents, breadth first, int64 [2, nodes].

    Args:
        tree: At most so many nodes.
        nodes: How many nodes the worker verifies. Those that the tree lacks have token 0.
        is_chain: Whether such nodes continue the tree's branch, so that a chain stays one. Else they are
            children of node 0, as SGLang's own are. Either way they see what their place says, so the model
            may accept one that happens to be right.
    """
    size = len(tree)
    order = np.argsort(tree.depths, kind="stable")
    places = np.empty(size, np.int64)
    places[order] = np.arange(size)
    columns = np.zeros((2, nodes), np.int64)
    tokens, parents = columns
    tokens[:size] = tree.token_ids[order]
    parents[0] = -1
    parents[1:size] = places[tree.parents[order[1:]]]
    if is_chain:
        parents[size:] = np.arange(size - 1, nodes - 1)
    return columns


def masks(parents: Int64Array) -> Int64Array:
    """Return int64 [rows, n, n], 1 at (row, i, j) where j is i or an ancestor of i, for parents [rows, n]."""
    rows, nodes = parents.shape
    seen = np.zeros((rows, nodes, nodes), np.int64)
    every = np.arange(rows)
    for node in range(nodes):
        if node > 0:
            seen[:, node] = seen[every, parents[:, node]]
        seen[:, node, node] = 1
    return seen
