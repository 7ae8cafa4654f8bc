"""What one forward pass over draft trees needs: the attention mask and the positions (paper, section 4.4)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lookahead.decoding.attention.visibility import TreeRow, Visibility
from lookahead.drafting.tree import DraftTree


def tree_positions(tree: DraftTree, first: int, size: int | None = None) -> Tensor:
    """Return int64 [size]: `first` plus each node's depth. Padding nodes get `first`."""
    positions = torch.full((len(tree) if size is None else size,), first, device="cpu")
    positions[: len(tree)] += torch.from_numpy(tree.depths)
    return positions


def tree_mask(
    rows: Sequence[TreeRow],
    dtype: torch.dtype,
    *,
    size: int,
    window: int | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Return the additive attention mask of draft trees, each directly after its row's text.

    A node sees its row's text without padding, its ancestors and itself, as far back as `Visibility` says.
    Copies of node 0 that pad a smaller tree see what node 0 sees.

        row 0, length 3, tree of 2     1 1 1 | 1 .            . hidden
                                       1 1 1 | 1 1
        row 1, length 2, tree of 1     1 1 | 1 . .            one column more than its text needs
                                       1 1 | 1 . .            a copy of node 0

    Args:
        rows: B trees.
        dtype: Dtype of the mask, the model's.
        size: Nodes of each row in the forward pass.
        window: Places that a token sees, itself included; None for all.
        chunk: Places of a chunk; None where there are none.

    Returns:
        [B, 1, size, longest row + size]: 0 where a node sees, the dtype's lowest value where it does not.
    """
    visibility = Visibility.of(rows, size, window=window, chunk=chunk)
    slots = max(row.length for row in rows) + size
    seen = torch.zeros(len(rows), size, slots, dtype=torch.bool, device="cpu")
    for of_row, row, first in zip(seen, rows, torch.from_numpy(visibility.first), strict=True):
        _show(of_row, row, first[:, None])
    return torch.zeros(seen.shape, dtype=dtype, device="cpu").masked_fill_(~seen, torch.finfo(dtype).min)[
        :, None
    ]


def _show(seen: Tensor, row: TreeRow, first: Tensor) -> None:
    """Write True, to [size, slots], where a node sees a slot; `first` is int64 [size, 1]."""
    tree, nodes, length = row.tree, len(row.tree), row.length
    if bool((first == first[0]).all()):
        seen[:, int(first[0]) : length] = True
    else:
        seen[:, :length] = torch.arange(length, device="cpu") >= first
    if row.padding is not None and not row.is_padded_left:
        seen[:, : len(row.padding)] &= row.padding != 0
    places = length + torch.from_numpy(tree.depths.astype("int64"))
    seen[:nodes, length : length + nodes] = torch.from_numpy(tree.ancestors()) & (places >= first[:nodes])
    seen[nodes:, length] = True
