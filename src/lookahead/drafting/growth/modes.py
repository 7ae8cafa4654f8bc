"""The paper's draft modes (section 4.3): branches merged by prefix, side by side, or a single one."""

import numpy as np

from lookahead.config import DraftMode
from lookahead.drafting.arrays import Integer
from lookahead.drafting.growth.best_first import GrowingTree, first_nodes, new_tree
from lookahead.drafting.tree import DraftTree
from lookahead.jit import kernel


@kernel
def side_by_side(tree: GrowingTree, max_nodes: int) -> GrowingTree:
    """Return the tree's branches as independent chains, the most probable first, until `max_nodes`.

    The path to each leaf is laid out whole under node 0, so that shared prefixes are repeated:

        0 ─ a ─┬─ b      becomes   0 ─┬─ a ─ b        nodes  0 a b c   →   0 a b a c
               └─ c                   └─ a ─ c
    """
    size = len(tree.token_ids)
    is_leaf = np.ones(size, np.bool_)
    is_leaf[tree.parents[1:]] = False
    chains = new_tree(max_nodes, tree.token_ids[0])
    end = 1
    for leaf in range(1, size):  # in order of their probability
        length = tree.depths[leaf]
        if not is_leaf[leaf] or end == max_nodes:
            continue
        node: Integer = np.int64(leaf)
        for depth in range(length, 0, -1):  # from the leaf up
            copy = end + depth - 1
            if copy < max_nodes:
                chains.token_ids[copy] = tree.token_ids[node]
                chains.parents[copy] = 0 if depth == 1 else copy - 1
                chains.depths[copy] = depth
                chains.probabilities[copy] = tree.probabilities[node]
            node = np.int64(tree.parents[node])
        end = min(max_nodes, int(end + length))
    return first_nodes(chains, end)


def as_draft_tree(tree: GrowingTree, decoding_length: int, mode: DraftMode) -> DraftTree:
    """Return a grown tree as a draft tree, its branches side by side in parallel mode."""
    if mode is DraftMode.PARALLEL:
        tree = side_by_side(tree, decoding_length)
    return DraftTree(tree.token_ids, tree.parents, tree.depths, tree.probabilities)
