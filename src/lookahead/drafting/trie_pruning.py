"""Node pruning: over capacity, drop the weakest nodes and let old counts fade (paper, section 4.2.3)."""

import numpy as np

from lookahead.drafting.compilation import kernel
from lookahead.drafting.trie_nodes import (
    CLOCK,
    NONE,
    USED,
    Int32Array,
    NodePool,
    release_node,
    unhash_node,
    unlink,
)


@kernel
def collect_trie(pool: NodePool, root: int, nodes: Int32Array) -> int:
    """Write the trie's nodes, root left out, parents first, to `nodes`; return how many there are."""
    size = 0
    child = pool.first_child[root]
    while child != NONE:
        nodes[size] = child
        size += 1
        child = pool.next_sibling[child]
    done = 0
    while done < size:
        child = pool.first_child[nodes[done]]
        done += 1
        while child != NONE:
            nodes[size] = child
            size += 1
            child = pool.next_sibling[child]
    return size


@kernel
def strength(pool: NodePool, node: int) -> int:
    """Return what a node is kept by: how often it was seen, then how lately.

    No node is stronger than its parent or its suffix, so dropping the weakest leaves no orphan.
    """
    return (np.int64(pool.count[node]) << 32) | np.int64(pool.stamp[node])


@kernel
def prune(pool: NodePool, root: int, share: float, tips: Int32Array) -> int:
    """Drop at least `share` of the trie's nodes, the weakest; halve the counts of the others.

    `tips`, contexts of live requests in this trie, are moved to their longest suffix that is left.
    Returns how many nodes were freed.
    """
    nodes = np.empty(len(pool.token), np.int32)
    size = collect_trie(pool, root, nodes)
    if size == 0:
        return 0
    strengths = np.empty(size, np.int64)
    for i in range(size):
        strengths[i] = strength(pool, nodes[i])
    drop = min(size, max(1, int(np.ceil(size * share))))
    threshold = np.partition(strengths, drop - 1)[drop - 1]
    for i in range(len(tips)):
        while tips[i] != root and strength(pool, tips[i]) <= threshold:
            tips[i] = pool.suffix[tips[i]]
    released = 0
    for i in range(size - 1, -1, -1):  # children before their parents
        node = np.int64(nodes[i])
        if strengths[i] <= threshold:
            unhash_node(pool, node)
            unlink(pool, node)
            release_node(pool, node)
            released += 1
        else:
            pool.count[node] = max(1, pool.count[node] // 2)
    return released


@kernel
def rebase_clock(pool: NodePool, elapsed: int) -> None:
    """Set the clock back by `elapsed` tokens, and every stamp with it, so that it never outgrows 31 bits."""
    pool.meta[CLOCK] -= elapsed
    for node in range(pool.meta[USED]):
        pool.stamp[node] = max(0, pool.stamp[node] - elapsed)
