"""What one forward over a draft tree needs: the mask and the positions (paper, section 4.4)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lookahead.decoding.attention.visibility import TreeRow
from lookahead.drafting.tree import DraftTree


def tree_positions(tree: DraftTree, first: int, size: int | None = None) -> Tensor:
    """Return int64 [size]: a node's position is that of node 0 plus its depth; node 0's behind the tree."""
    positions = torch.full((len(tree) if size is None else size,), first)
    positions[: len(tree)] += torch.from_numpy(tree.depths)
    return positions


def tree_mask(
    rows: Sequence[TreeRow],
    dtype: torch.dtype,
    *,
    start: int,
    size: int,
    window: int | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Return the additive attention mask of draft trees behind a cache.

    A node sees its row's part of the cache without padding, itself and its ancestors; with a sliding window
    only those of them less than `window` places back, with chunks only those in its own. Places are counted
    as the library counts them: by slots, as if the row were alone, chunks from behind the padding on its
    left. What stands behind a tree that is smaller than others sees what node 0 sees: nobody reads what
    comes of it.

    Args:
        rows: B trees.
        dtype: the model's.
        start: the first slot of the trees.
        size: the largest tree's nodes.
        window: how many places a token sees, itself included, or None for all.
        chunk: places of a chunk, or None where there are none.

    Returns:
        [B, 1, size, start + size]: 0 where a node sees, the dtype's lowest value where it does not.
    """
    hidden = torch.zeros(len(rows), size, start + size, dtype=torch.bool)
    for row, of_row in zip(rows, hidden, strict=True):
        _hide(of_row, row, start, window, chunk)
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min)[:, None]


def _hide(hidden: Tensor, row: TreeRow, start: int, window: int | None, chunk: int | None) -> None:
    """Write True, to [size, start + size], where a node does not see a slot."""
    tree, nodes = row.tree, len(row.tree)
    hidden[:nodes, start : start + nodes] = torch.from_numpy(~tree.ancestors())
    hidden[:nodes, start + nodes :] = True
    if row.length < start:
        hidden[:nodes, row.length : start] = True
    if row.padding is not None:
        hidden[:nodes, : len(row.padding)] |= row.padding == 0
    if window is not None or chunk is not None:
        places = torch.cat([torch.arange(start), row.length + torch.from_numpy(tree.depths.astype("int64"))])
        if window is not None:
            hidden[:nodes, : start + nodes] |= places[None, :] <= places[start:, None] - window
        if chunk is not None:
            chunks = torch.div(places - row.left_padding, chunk, rounding_mode="floor")
            hidden[:nodes, : start + nodes] |= chunks[None, :] != chunks[start:, None]
    hidden[nodes:] = hidden[0]
