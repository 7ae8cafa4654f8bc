"""The slot table: where, in a cache, the text that each node of a draft tree sees is kept."""

from typing import Any

import numpy as np

from lookahead.drafting.arrays import Int32Array, Int64Array
from lookahead.drafting.tree import DraftTree
from lookahead.jit import kernel


def tail_length(length: int, depth: int, block: int) -> int:
    """Return how many places, in whole blocks, follow the last full block of a text.

    Args:
        length: tokens of the text in the cache.
        depth: of the deepest node behind it.
        block: places of a block; blocks begin at its multiples.
    """
    places = length % block + depth + 1
    return (places + block - 1) // block * block


@kernel
def fill_slots(
    table: Any, parents: Int32Array, depths: Int32Array, length: int, start: int, block: int
) -> None:
    """Write the slot of each place from a text's last full block on, as each node of a tree sees them.

    Places behind a node are given its own slot: that holds something, whatever is looked up there.

    Args:
        table: int64 [size, tail], size at least the tree's; nodes behind the tree's are like another node 0.
        parents: int32 [n].
        depths: int32 [n].
        length: tokens of the text in the cache, in slots from 0 on.
        start: the slot of node 0; the others follow.
        block: places of a block.
    """
    size, tail = table.shape
    rest = length % block
    for node in range(size):
        depth = depths[node] if node < len(depths) else 0
        if 0 < node < len(parents):
            for place in range(rest + depth):
                table[node, place] = table[parents[node], place]
        else:
            for place in range(rest):
                table[node, place] = length - rest + place
        for place in range(rest + depth, tail):
            table[node, place] = start + node


def slot_table(trees: list[DraftTree], lengths: list[int], start: int, size: int, block: int) -> Int64Array:
    """Return the slot table of a batch's trees, int64 [B, size, tail].

    Args:
        trees: one a row.
        lengths: tokens that each row holds in the cache.
        start: the slot of all trees' first node.
        size: of the largest tree.
        block: places of a block.
    """
    deepest = [int(tree.depths.max()) for tree in trees]
    tail = max(tail_length(length, depth, block) for length, depth in zip(lengths, deepest, strict=True))
    table = np.empty((len(trees), size, tail), np.int64)
    for row, (tree, length) in enumerate(zip(trees, lengths, strict=True)):
        fill_slots(table[row], tree.parents, tree.depths, length, start, block)
    return table
