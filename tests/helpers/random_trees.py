"""Draft trees of any shape."""

from random import Random

import numpy as np

from lookahead.drafting.tree import DraftTree


def random_tree(nodes: int, seed: int, vocabulary: int = 64) -> DraftTree:
    """Return a tree of `nodes` nodes; some seeds give wide trees, some deep ones."""
    random = Random(seed)
    deepens = random.random()
    parents = [-1] + [
        node - 1 if random.random() < deepens else random.randrange(node) for node in range(1, nodes)
    ]
    depths = [0]
    for parent in parents[1:]:
        depths.append(depths[parent] + 1)
    tokens = [random.randrange(vocabulary) for _ in range(nodes)]
    columns = (np.array(column, np.int32) for column in (tokens, parents, depths))
    return DraftTree(*columns, np.ones(nodes))
