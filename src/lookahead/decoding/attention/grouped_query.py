"""Tree attention for grouped queries: keys and values are not repeated."""

import torch
from torch import Tensor


def grouped_query_tree_attention(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, *, scaling: float | None
) -> Tensor:
    """Attend with grouped queries without repeating keys and values: the group becomes more query rows.

    Args:
        query: [B, heads, T, width].
        keys: [B, key heads, S, width]; heads is a multiple of key heads.
        values: [B, key heads, S, value width].
        mask: Additive, the same for all heads: [B or 1, 1, T, S], or [B or 1, 1, heads / key heads · T, S]
            if it was repeated once for all layers.
        scaling: Factor on the scores; None for 1 / √width.

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
