"""Tree attention in two parts: the context that every node sees, without a mask, and the rest.

Softmax over two sets of keys is put together from that over each by their log-sum-exp, exactly (as in
FlashAttention, arXiv 2205.14135). So the context goes through a kernel that takes no mask and reads keys and
values once for all nodes and heads of a group, and the mask shrinks to the tree's own corner.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_flash_attention

from lookahead.decoding.attention.visibility import TreeRow

MIN_SPLIT_SLOTS = 1024
"""A shorter context is not worth the launches of a second part."""


@dataclass(frozen=True)
class SeenByAll:
    """The slots that all nodes of all rows see: from `begin` up to `end`. Before `begin` nobody sees any."""

    begin: int
    end: int

    @classmethod
    def of(
        cls, rows: Sequence[TreeRow], *, window: int | None = None, chunk: int | None = None
    ) -> "SeenByAll | None":
        """Return the slots that all nodes see; None where there is no such part.

        There is none where rows are padded to different lengths, or elsewhere than on the left, where some
        node's window does not reach back to the first token, and with chunks.

        Args:
            rows: the trees.
            window: how many places a token sees, itself included, or None for all.
            chunk: places of a chunk, or None where there are none.
        """
        begin = rows[0].left_padding
        end = min(row.length for row in rows)
        deepest = max(row.length + int(row.tree.depths.max()) for row in rows)
        is_cut = window is not None and deepest - window >= begin
        if chunk is not None or is_cut or end <= begin:
            return None
        if not all(row.is_padded_left and row.left_padding == begin for row in rows):
            return None
        return cls(begin, end)


def splits_on(device: torch.device) -> bool:
    """Return whether a device has a fast kernel for the part without a mask, which also gives its sums.

    On the CPU one pass with a mask is as fast, and a second call is not free (docs/design/fast-step.md).
    """
    return device.type == "cuda"


def can_split(query: Tensor, keys: Tensor, values: Tensor) -> bool:
    """Return whether the part without a mask is worth it and its kernel, FlashAttention, takes the tensors.

    Args:
        query: [B, heads, T, width]; heads is a multiple of key heads.
        keys: [B, key heads, S, width].
        values: [B, key heads, S, value width].
    """
    if not splits_on(query.device) or keys.shape[2] < MIN_SPLIT_SLOTS:
        return False
    if query.shape[-1] % 8 or query.shape[-1] != values.shape[-1]:
        return False
    as_folded = query[:, : keys.shape[1]]  # which has the key heads, and more queries
    return bool(can_use_flash_attention(SDPAParams(as_folded, keys, values, None, 0.0, False, False)))


def split_tree_attention(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, seen: SeenByAll, *, scaling: float | None
) -> Tensor:
    """Attend as `grouped_query_tree_attention`, with the slots that all nodes see apart from the others.

    Args:
        query: [B, heads, T, width].
        keys: [B, key heads, S, width]; heads is a multiple of key heads.
        values: [B, key heads, S, value width].
        mask: additive, the same for all heads: [B or 1, 1, T, S]; what it says of the slots that all nodes
            see is not read.
        seen: those slots.
        scaling: factor on the scores; None for 1 / √width.

    Returns:
        [B, heads, T, value width].
    """
    batch, heads, length, width = query.shape
    scale = width**-0.5 if scaling is None else scaling
    groups = heads // keys.shape[1]
    folded = query.reshape(batch, keys.shape[1], groups * length, width)
    context = slice(seen.begin, seen.end)
    first, first_weight = _without_mask(folded, keys[:, :, context], values[:, :, context], scale)
    corner = mask[:, :, :length, seen.end :].repeat(1, 1, groups, 1)
    second, second_weight = _masked(folded, keys[:, :, seen.end :], values[:, :, seen.end :], corner, scale)
    share = torch.sigmoid(first_weight - second_weight)[..., None]
    attended = torch.lerp(second.to(share.dtype), first.to(share.dtype), share).to(query.dtype)
    return attended.reshape(batch, heads, length, values.shape[3])


def _without_mask(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return what is attended, [B, heads, rows, width], and the scores' log-sum-exp, [B, heads, rows]."""
    if can_split(query, keys, values):
        flash = torch.ops.aten._scaled_dot_product_flash_attention  # noqa: SLF001  # the public one hides the sums
        attended, weight = flash(query, keys, values, 0.0, is_causal=False, scale=scale)[:2]
        return attended, weight[:, :, : query.shape[2]]
    return _masked(query, keys, values, None, scale)


def _masked(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Return the same by plain products, sums in float32 at least."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    scores = (query @ keys.transpose(2, 3)).to(dtype) * scale
    if mask is not None:
        scores = scores + mask.to(dtype)
    return (scores.softmax(-1).to(values.dtype) @ values), scores.logsumexp(-1)
