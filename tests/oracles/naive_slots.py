"""The slot table as a walk up the tree from each node."""

from collections.abc import Sequence

from lookahead.decoding.attention.visibility import TreeRow
from lookahead.drafting.tree import DraftTree


def naive_slots(
    trees: Sequence[DraftTree], lengths: Sequence[int], size: int, block: int
) -> list[list[list[int]]]:
    """Return, for each row and node, the slot of each place from the row's last full block on."""
    needed = [length % block + max(tree.depths) + 1 for tree, length in zip(trees, lengths, strict=True)]
    tail = max(-(-places // block) * block for places in needed)
    return [_of_row(tree, length, 0, size, block, tail) for tree, length in zip(trees, lengths, strict=True)]


def naive_slots_of_rows(
    rows: Sequence[TreeRow], sizes: Sequence[int], are_chains: Sequence[bool], block: int
) -> list[list[int] | None]:
    """Return the slots for the nodes of all rows, blocks counted from each first token; None for chains."""
    trees = [row for row, is_chain in zip(rows, are_chains, strict=True) if not is_chain]
    needed = [(row.length - row.left_padding) % block + max(row.tree.depths) + 1 for row in trees]
    tail = max((-(-places // block) * block for places in needed), default=0)
    table: list[list[int] | None] = []
    for row, size, is_chain in zip(rows, sizes, are_chains, strict=True):
        of_row = [None] * size
        table += of_row if is_chain else _of_row(row.tree, row.length, row.left_padding, size, block, tail)
    return table


def _of_row(tree: DraftTree, length: int, start: int, size: int, block: int, tail: int) -> list[list[int]]:
    of_row = []
    for node in range(size):
        path = tree.path_to(node) if node < len(tree) else [node]
        text = [*range(start, length), *(length + above for above in path)]
        text = text[(length - start) // block * block :]
        of_row.append(text + [length + node] * (tail - len(text)))
    return of_row
