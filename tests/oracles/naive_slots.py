"""The slot table as a walk up the tree from each node."""

from lookahead.drafting.tree import DraftTree


def naive_slots(trees: list[DraftTree], lengths: list[int], size: int, block: int) -> list[list[list[int]]]:
    """Return, for each row and node, the slot of each place from the row's last full block on."""
    needed = [length % block + max(tree.depths) + 1 for tree, length in zip(trees, lengths, strict=True)]
    tail = max(-(-places // block) * block for places in needed)
    table = []
    for tree, length in zip(trees, lengths, strict=True):
        of_row = []
        for node in range(size):
            path = tree.path_to(node) if node < len(tree) else [node]
            text = [*range(length), *(length + above for above in path)][length - length % block :]
            of_row.append(text + [length + node] * (tail - len(text)))
        table.append(of_row)
    return table
