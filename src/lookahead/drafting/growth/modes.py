"""The paper's draft modes: branches merged by prefix, side by side, or a single one."""

import numpy as np

from lookahead.config import DraftMode
from lookahead.drafting.arrays import Integer
from lookahead.drafting.growth.best_first import Growth, first_nodes, new_growth
from lookahead.drafting.tree import DraftTree
from lookahead.jit import kernel


@kernel
def side_by_side(tree: Growth, max_nodes: int) -> Growth:
    """Return the tree's branches as independent chains, the most probable first, as far as they fit.

    Each leaf's path is laid out whole under node 0, so that shared prefixes are repeated.
    """
    size = len(tree.token_ids)
    is_leaf = np.ones(size, np.bool_)
    is_leaf[tree.parents[1:]] = False
    laid = new_growth(max_nodes, tree.token_ids[0])
    end = 1
    for leaf in range(1, size):  # in order of their probability
        length = tree.depths[leaf]
        if not is_leaf[leaf] or end == max_nodes:
            continue
        node: Integer = np.int64(leaf)
        for depth in range(length, 0, -1):
            place = end + depth - 1
            if place < max_nodes:
                laid.token_ids[place] = tree.token_ids[node]
                laid.parents[place] = 0 if depth == 1 else place - 1
                laid.depths[place] = depth
                laid.probabilities[place] = tree.probabilities[node]
            node = np.int64(tree.parents[node])
        end = min(max_nodes, int(end + length))
    return first_nodes(laid, end)


def as_draft_tree(tree: Growth, decoding_length: int, mode: DraftMode) -> DraftTree:
    """Return what was grown as a draft tree, its branches side by side where the mode says so."""
    if mode is DraftMode.PARALLEL:
        tree = side_by_side(tree, decoding_length)
    return DraftTree(tree.token_ids, tree.parents, tree.depths, tree.probabilities)
