"""Node pruning (paper, section 4.2.2): at the cap, drop the weakest nodes and halve the counts of the others.

The paper's other way of forgetting, branch elimination, is `nodes.release_trie`: at the end of a request its
own trie is freed.
"""

import numpy as np

from lookahead.drafting.arrays import Int32Array, Integer
from lookahead.drafting.trie.nodes import CLOCK, NONE, USED, NodePool, release_node, unhash_node, unlink
from lookahead.jit import kernel

LATEST_CLOCK = 2**30
"""Where the clock is set back; stamps and counts are int32."""


@kernel
def collect_trie(pool: NodePool, root: Integer, nodes: Int32Array) -> int:
    """Write the trie's nodes without the root, parents first, to `nodes`; return how many there are."""
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
def strength(pool: NodePool, node: Integer) -> int:
    """Return the number that pruning sorts nodes by: how often they were seen, then how recently.

    No node is stronger than its suffix. But it can be stronger than its parent: when their
    counts are equal, the node was seen one token later.
    """
    return int((np.int64(pool.seen[node]) << 32) | np.int64(pool.stamp[node]))


@kernel
def prune(pool: NodePool, root: Integer, share: float, contexts: Int32Array) -> int:
    """Drop at least `share` of the trie's nodes, the weakest and all below them; halve the other counts.

    After "a b a b c", dropping at least a third of the six nodes: b a is the weakest (seen once, at 3), then
    come c and b c (seen once, at 5), which are equally strong and go together:

        root ─┬─ a:2 ── b:2                     root ─┬─ a:1 ── b:1
              ├─ b:2 ─┬─ c:1                          └─ b:1
              │       └─ a:1
              └─ c:1

    Args:
        pool: All nodes.
        root: The trie's.
        share: From 0 to 1.
        contexts: Contexts of live requests in this trie, moved to their longest suffix that remains.

    Returns:
        How many nodes were freed.
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
    for i in range(size):  # parents before their children; a count of 0 marks nodes to drop
        node, parent = nodes[i], pool.parent[nodes[i]]
        if strengths[i] <= threshold or (parent != root and pool.seen[parent] == 0):
            pool.seen[node] = 0
        else:
            pool.seen[node] = max(1, pool.seen[node] // 2)
    for i in range(len(contexts)):
        while contexts[i] != root and pool.seen[contexts[i]] == 0:
            contexts[i] = pool.suffix[contexts[i]]
    released = 0
    for i in range(size - 1, -1, -1):  # children before their parents
        node = nodes[i]
        if pool.seen[node] == 0:
            unhash_node(pool, np.int64(node))
            unlink(pool, np.int64(node))
            release_node(pool, np.int64(node))
            released += 1
    return released


@kernel
def rebase_clock(pool: NodePool, elapsed: int) -> None:
    """Set the clock and every stamp back by `elapsed` tokens and halve the counts: they must fit 31 bits."""
    pool.meta[CLOCK] -= elapsed
    for node in range(pool.meta[USED]):
        pool.stamp[node] = max(0, pool.stamp[node] - elapsed)
        pool.seen[node] = (pool.seen[node] + 1) // 2
