r"""The slot table: the cache slots of the last places that each node of a draft tree sees.

length 6, blocks of 4: places 4 and up are looked up, two of them cached, the others the path's

tree   0          node 0, depth 0:  4 5 6 6       place 6 is node 0's, in slot length + 0
       |\         node 1, depth 1:  4 5 6 7       place 7 is node 1's, in slot length + 1
       1 2        node 2, depth 1:  4 5 6 8       place 7 is node 2's, in slot length + 2
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lookahead.decoding.attention.visibility import TreeRow
from lookahead.drafting.arrays import Int32Array, Int64Array
from lookahead.drafting.tree import DraftTree
from lookahead.jit import kernel


def tail_length(length: int, depth: int, block: int) -> int:
    """Return how many places, in whole blocks, follow the last full block of a text.

    Args:
        length: Slots that hold the text.
        depth: Depth of the deepest node after it.
        block: Places of a block; blocks begin at its multiples.
    """
    places = length % block + depth + 1
    return (places + block - 1) // block * block


@kernel
def fill_slots(
    table: Any, parents: Int32Array, depths: Int32Array, length: int, block: int, start: int
) -> None:
    """Write the slot of each place from a text's last full block on, as each node of a tree sees them.

    Places after a node get the node's own slot, so that reading them is safe.

    Args:
        table: int64 [size, tail], with size at least n; nodes after the tree are copies of node 0.
        parents: int32 [n].
        depths: int32 [n].
        length: Slots that hold the row's text, from slot 0 on; node i is in slot length + i.
        block: Places of a block.
        start: The slot from which blocks are counted.
    """
    size, tail = table.shape
    rest = (length - start) % block
    for node in range(size):
        depth = depths[node] if node < len(depths) else 0
        if 0 < node < len(parents):
            for place in range(rest + depth):
                table[node, place] = table[parents[node], place]
        else:
            for place in range(rest):
                table[node, place] = length - rest + place
        for place in range(rest + depth, tail):
            table[node, place] = length + node


def slot_table(trees: list[DraftTree], lengths: list[int], size: int, block: int) -> Int64Array:
    """Return the slot table of B trees, int64 [B, size, tail].

    Args:
        trees: One per row.
        lengths: Slots that hold each row's text; the row's tree lies directly after it.
        size: Nodes of each row in the forward pass.
        block: Places of a block.
    """
    deepest = [int(tree.depths.max()) for tree in trees]
    tail = max(tail_length(length, depth, block) for length, depth in zip(lengths, deepest, strict=True))
    table = np.empty((len(trees), size, tail), np.int64)
    for row, (tree, length) in enumerate(zip(trees, lengths, strict=True)):
        fill_slots(table[row], tree.parents, tree.depths, length, block, 0)
    return table


def slots_of_rows(
    rows: Sequence[TreeRow], sizes: Sequence[int], are_chains: Sequence[bool], block: int
) -> Int64Array:
    """Return the slot table of the nodes of all rows, int64 [nodes, tail].

    Blocks are counted from each row's first token.

    Args:
        rows: B trees whose padding is on the left.
        sizes: Nodes of each row in the forward pass.
        are_chains: Whether each row's nodes are a chain, whose part of the table is not set.
        block: Places of a block.
    """
    trees = [row for row, is_chain in zip(rows, are_chains, strict=True) if not is_chain]
    tails = [tail_length(row.length - row.left_padding, int(row.tree.depths.max()), block) for row in trees]
    table = np.empty((sum(sizes), max(tails, default=0)), np.int64)
    begin = 0
    for row, size, is_chain in zip(rows, sizes, are_chains, strict=True):
        if not is_chain:
            part = table[begin : begin + size]
            fill_slots(part, row.tree.parents, row.tree.depths, row.length, block, row.left_padding)
        begin += size
    return table
