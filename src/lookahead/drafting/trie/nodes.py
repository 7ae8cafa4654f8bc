"""The trie's nodes: a pool of flat arrays, children found by hash, freed nodes used again.

One pool holds every trie: the shared one (outputs) and one for each live request (its prompt and its own
output). A trie is named by its root, a node of depth 0. Siblings are linked most recently seen first.
Each node's `suffix` is the node of the same run without its first token (or more, where a stop word is in the
way), so that a context leads to all shorter ones by single hops, as in a suffix tree.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lookahead.drafting.arrays import Int32Array, Integer
from lookahead.jit import kernel

NONE = -1
# Indices of `NodePool.meta`.
USED = 0
"""Nodes ever taken from the pool; those beyond were never used."""
FREE_HEAD = 1
FREE_COUNT = 2
CLOCK = 3
"""Tokens inserted so far: the time that `stamp` counts in."""

OWN_ROOT, OWN_CONTEXT, SHARED_ROOT, SHARED_CONTEXT, LAST_TOKEN = 0, 1, 2, 3, 4
"""Columns of a request's row, five int32: where it is in its own trie and in the shared one."""


class NodePool(NamedTuple):
    """The columns of all nodes, the hash table of children, and counters.

    Attributes:
        token: int32 [capacity].
        parent: int32 [capacity].
        suffix: int32 [capacity], see above.
        first_child: int32 [capacity], the most recently seen child.
        next_sibling: int32 [capacity], the next child of the same parent; of a free node the next free one.
        previous_sibling: int32 [capacity].
        seen: int32 [capacity], how often the run was seen.
        stamp: int32 [capacity], when it was last seen, by the clock.
        depth: int8 [capacity], the length of the run.
        table: int32 [buckets], nodes by the hash of (parent, token).
        meta: int64 [4], see USED, FREE_HEAD, FREE_COUNT and CLOCK.
    """

    token: Int32Array
    parent: Int32Array
    suffix: Int32Array
    first_child: Int32Array
    next_sibling: Int32Array
    previous_sibling: Int32Array
    seen: Int32Array
    stamp: Int32Array
    depth: npt.NDArray[np.int8]
    table: Int32Array
    meta: npt.NDArray[np.int64]


META_SIZE = 4


def table_size(capacity: int) -> int:
    """Return the number of buckets for `capacity` nodes: a power of two, at most two thirds in use."""
    return 1 << (capacity * 3 // 2).bit_length()


def pool_bytes(capacity: int) -> int:
    """Return the bytes of a pool for `capacity` nodes: eight int32 columns, one int8, the hash table."""
    return capacity * (8 * 4 + 1) + 4 * table_size(capacity) + 8 * META_SIZE


def new_pool(capacity: int) -> NodePool:
    """Return an empty pool for `capacity` nodes."""
    return NodePool(
        token=np.full(capacity, NONE, np.int32),
        parent=np.full(capacity, NONE, np.int32),
        suffix=np.full(capacity, NONE, np.int32),
        first_child=np.full(capacity, NONE, np.int32),
        next_sibling=np.full(capacity, NONE, np.int32),
        previous_sibling=np.full(capacity, NONE, np.int32),
        seen=np.zeros(capacity, np.int32),
        stamp=np.zeros(capacity, np.int32),
        depth=np.zeros(capacity, np.int8),
        table=np.full(table_size(capacity), NONE, np.int32),
        meta=np.array([0, NONE, 0, 0], np.int64),
    )


def grown_pool(pool: NodePool, capacity: int) -> NodePool:
    """Return a pool for `capacity` nodes with the same nodes under the same numbers."""
    larger = new_pool(capacity)
    for name in NodePool._fields:
        if name not in ("table", "meta"):
            getattr(larger, name)[: len(pool.token)] = getattr(pool, name)
    larger.meta[:] = pool.meta
    rehash(larger)
    return larger


@kernel
def bucket_of(pool: NodePool, parent: Integer, token: Integer) -> Integer:
    """Return the bucket where the search for (parent, token) begins."""
    key = np.uint64(parent) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(token) * np.uint64(0xC2B2AE3D27D4EB4F)
    key ^= key >> np.uint64(29)
    key *= np.uint64(0xBF58476D1CE4E5B9)
    key ^= key >> np.uint64(32)
    return np.int64(key & np.uint64(len(pool.table) - 1))


@kernel
def find_child(pool: NodePool, parent: Integer, token: Integer) -> Integer:
    """Return the child of `parent` that carries `token`, or NONE."""
    mask = len(pool.table) - 1
    bucket = bucket_of(pool, parent, token)
    while True:
        node = pool.table[bucket]
        if node == NONE:
            return NONE
        if pool.parent[node] == parent and pool.token[node] == token:
            return np.int64(node)
        bucket = (bucket + 1) & mask


@kernel
def hash_node(pool: NodePool, node: Integer) -> None:
    """Put `node` into the hash table."""
    mask = len(pool.table) - 1
    bucket = bucket_of(pool, pool.parent[node], pool.token[node])
    while pool.table[bucket] != NONE:
        bucket = (bucket + 1) & mask
    pool.table[bucket] = node


@kernel
def unhash_node(pool: NodePool, node: Integer) -> None:
    """Take `node` out of the hash table, moving later entries back so that no gap hides them.

    A search goes from an entry's home bucket to the next empty one. Taking out B leaves a gap at 3. C, whose
    home is 2, would be hidden behind it and moves there; D (home 5) stays; E (home 3) moves to C's gap:

        bucket     2  3  4  5  6  7                   2  3  4  5  6  7
        before     A  B  C  D  E  -        after      A  C  E  D  -  -

    An entry moves if its home is not between the gap and itself, around the end of the table.
    """
    mask = len(pool.table) - 1
    bucket = bucket_of(pool, pool.parent[node], pool.token[node])
    while pool.table[bucket] != node:
        bucket = (bucket + 1) & mask
    gap = bucket
    while True:
        bucket = (bucket + 1) & mask
        other = pool.table[bucket]
        if other == NONE:
            break
        home = bucket_of(pool, pool.parent[other], pool.token[other])
        if ((bucket - home) & mask) >= ((bucket - gap) & mask):
            pool.table[gap] = other
            gap = bucket
    pool.table[gap] = NONE


@kernel
def rehash(pool: NodePool) -> None:
    """Fill an empty hash table with every node that has a parent."""
    for node in range(pool.meta[USED]):
        if pool.parent[node] != NONE:
            hash_node(pool, node)


@kernel
def available(pool: NodePool) -> int:
    """Return how many nodes can still be taken."""
    return int(len(pool.token) - pool.meta[USED] + pool.meta[FREE_COUNT])


@kernel
def take_node(pool: NodePool) -> Integer:
    """Return an unused node; the caller has checked that one is available."""
    node: Integer = pool.meta[FREE_HEAD]
    if node != NONE:
        pool.meta[FREE_HEAD] = pool.next_sibling[node]
        pool.meta[FREE_COUNT] -= 1
    else:
        node = pool.meta[USED]
        pool.meta[USED] += 1
    pool.parent[node] = NONE
    pool.suffix[node] = NONE
    pool.first_child[node] = NONE
    pool.next_sibling[node] = NONE
    pool.previous_sibling[node] = NONE
    pool.token[node] = NONE
    pool.seen[node] = 0
    pool.stamp[node] = 0
    pool.depth[node] = 0
    return node


@kernel
def release_node(pool: NodePool, node: Integer) -> None:
    """Give a node back and erase its token; it must no longer be hashed or linked."""
    pool.token[node] = NONE
    pool.parent[node] = NONE
    pool.next_sibling[node] = pool.meta[FREE_HEAD]
    pool.meta[FREE_HEAD] = node
    pool.meta[FREE_COUNT] += 1


@kernel
def link_first(pool: NodePool, node: Integer) -> None:
    """Make `node` the first of its siblings."""
    parent = pool.parent[node]
    head = pool.first_child[parent]
    pool.previous_sibling[node] = NONE
    pool.next_sibling[node] = head
    if head != NONE:
        pool.previous_sibling[head] = node
    pool.first_child[parent] = node


@kernel
def unlink(pool: NodePool, node: Integer) -> None:
    """Take `node` out of its parent's list of children."""
    before = pool.previous_sibling[node]
    after = pool.next_sibling[node]
    if before != NONE:
        pool.next_sibling[before] = after
    else:
        pool.first_child[pool.parent[node]] = after
    if after != NONE:
        pool.previous_sibling[after] = before


@kernel
def contains(sorted_words: Int32Array, token: Integer) -> bool:
    """Return whether a sorted array holds `token`."""
    index = np.searchsorted(sorted_words, token)
    return bool(index < len(sorted_words) and sorted_words[index] == token)


@kernel
def is_context(pool: NodePool, node: Integer, max_depth: int, stop_words: Int32Array) -> bool:
    """Return whether `node` may have children: it is not too deep, and not only a stop word."""
    depth = pool.depth[node]
    if depth >= max_depth:
        return False
    return depth != 1 or len(stop_words) == 0 or not contains(stop_words, pool.token[node])


@kernel
def advance(
    pool: NodePool, root: Integer, context: Integer, token: Integer, max_depth: int, stop_words: Int32Array
) -> Integer:
    """Return the longest context that the trie has after `context` and `token`; nothing is inserted."""
    while True:
        if is_context(pool, context, max_depth, stop_words):
            node = find_child(pool, context, token)
            if node != NONE:
                return node
        if context == root:
            return root
        context = np.int64(pool.suffix[context])


@kernel
def release_trie(pool: NodePool, root: Integer) -> int:
    """Branch elimination (paper, section 4.2.2): free a whole trie; return how many nodes that frees.

    Children go before their parents: walk down to a leaf, free it, go on with its parent.
    """
    released = 0
    node = root
    while True:
        child = pool.first_child[node]
        if child != NONE:
            node = np.int64(child)
            continue
        parent = pool.parent[node]
        if node == root:
            release_node(pool, node)
            return released + 1
        unhash_node(pool, node)
        pool.first_child[parent] = pool.next_sibling[node]
        release_node(pool, node)
        released += 1
        node = np.int64(parent)
