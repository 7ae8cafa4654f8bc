"""What one forward over a draft tree needs: the mask and the positions (paper, section 4.4)."""

import torch
from torch import Tensor

from lookahead.drafting.tree import DraftTree


def tree_positions(tree: DraftTree, prefix_length: int) -> Tensor:
    """Return int64 [n]: a node's position is the prefix's length plus its depth."""
    return torch.from_numpy(tree.depths.astype("int64")) + prefix_length


def tree_mask(
    tree: DraftTree, prefix_length: int, dtype: torch.dtype, *, window: int | None = None
) -> Tensor:
    """Return the additive attention mask of a draft tree behind a cached prefix.

    A node sees the whole prefix, itself and its ancestors; with a sliding window only those of them less
    than `window` positions back.

    Args:
        tree: n nodes.
        prefix_length: tokens in the cache before the tree.
        dtype: the model's.
        window: how many positions a token sees, itself included, or None for all.

    Returns:
        [n, prefix_length + n]: 0 where a node sees, the dtype's lowest value where it does not.
    """
    size = len(tree)
    hidden = torch.zeros(size, prefix_length + size, dtype=torch.bool)
    hidden[:, prefix_length:] = torch.from_numpy(~tree.ancestors())
    if window is not None:
        depths = torch.from_numpy(tree.depths.astype("int64"))
        positions = torch.cat([torch.arange(prefix_length), prefix_length + depths])
        hidden |= positions[None, :] <= positions[prefix_length:, None] - window
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min)


def folded_tree_attention(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, *, scaling: float | None
) -> Tensor:
    """Attend with grouped queries without repeating keys and values: the group becomes more query rows.

    Args:
        query: [B, heads, T, width].
        keys: [B, key heads, S, width]; heads is a multiple of key heads.
        values: [B, key heads, S, value width].
        mask: additive, the same for all heads: [B or 1, 1, T, S], or [B or 1, 1, heads / key heads · T, S]
            where it is repeated already, once for all layers.
        scaling: factor on the scores; None for 1 / √width.

    Returns:
        [B, heads, T, value width].
    """
    batch, heads, length, width = query.shape
    groups = heads // keys.shape[1]
    folded = query.reshape(batch, keys.shape[1], groups * length, width)
    if mask.shape[2] != groups * length:
        mask = mask[:, :, :length].repeat(1, 1, groups, 1)
    attended = torch.nn.functional.scaled_dot_product_attention(
        folded, keys, values, attn_mask=mask, scale=scaling
    )
    return attended.reshape(batch, heads, length, values.shape[3])
