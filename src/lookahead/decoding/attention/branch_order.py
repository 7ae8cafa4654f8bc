"""Attention of each node to its own branch, in the order of the text, in matrix products of one shape.

The last bits of a product depend on its shape. The last bits of a sum depend on the order of its terms. So
keys are taken in blocks that begin at multiples of 64 places, multiplied in products of one shape and summed
block by block. Near blocks, which a draft may reach, are gathered for each node by the slot table. Far
blocks lie in the cache in order, the same for all nodes of a row, and are read in place. A node's own place
decides which of its blocks are near. So a node's result depends only on its text. It depends neither on where
the cache holds that text nor on the rest of the forward pass.

    length 150, drafts of up to 16 nodes, BLOCK 64

    places   0 ........ 63 | 64 ....... 127 | 128 .. 149 + the node's path ...
             far           | far            | near: gathered for each node
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lookahead.decoding.attention.slots import slot_table
from lookahead.decoding.attention.visibility import TreeRow, Visibility
from lookahead.drafting.arrays import Int64Array

BLOCK = 64
"""Keys per product; blocks begin at its multiples, counted in places of the text."""


@dataclass(frozen=True)
class BranchOrderPlaces:
    """Where in the cache the text of each node lies.

    Attributes:
        far: First and end of the far places, in whole blocks. They are read directly from the cache;
            slot = place.
        near: int64 [B, n, near places], the slots of the further places, whole blocks, for each node; where
            they begin depends on the row.
        seen: bool [B, n, far and near places], which of them a node sees.
    """

    far: tuple[int, int]
    near: Tensor
    seen: Tensor

    @classmethod
    def of(
        cls, rows: Sequence[TreeRow], *, size: int, window: int | None = None, chunk: int | None = None
    ) -> "BranchOrderPlaces":
        """Return the places of draft trees; the arguments are those of `tree_mask`."""
        visibility = Visibility.of(rows, size, window=window, chunk=chunk)
        first, last = visibility.first, visibility.places
        ends = np.maximum(last - size + 1, 0) // BLOCK * BLOCK  # a draft of this size begins at or after it
        begins = ends.min(axis=1)
        near = _near_slots(rows, size, begins)
        holding = [row.length > 0 for row in rows]  # rows that hold nothing see no far block
        begin = int(first[holding].min()) // BLOCK * BLOCK if any(holding) else 0
        far = min(begin, int(ends.max())), int(ends.max())
        far_places = np.arange(*far)[None, None, :]
        near_places = (begins[:, None] + np.arange(near.shape[2])[None, :])[:, None, :]
        seen = [
            (far_places >= first[..., None]) & (far_places < ends[..., None]),
            (near_places >= np.maximum(first, ends)[..., None]) & (near_places <= last[..., None]),
        ]
        return cls(far, torch.from_numpy(near), torch.from_numpy(np.concatenate(seen, axis=2)))

    def to(self, device: torch.device) -> "BranchOrderPlaces":
        """Return the places on a device."""
        return BranchOrderPlaces(self.far, self.near.to(device), self.seen.to(device))


def _near_slots(rows: Sequence[TreeRow], size: int, begins: Int64Array) -> Int64Array:
    """Return the slots of the places from `begins` [B] on, int64 [B, size, places]."""
    tails = slot_table([row.tree for row in rows], [row.length for row in rows], size, BLOCK)
    held = [row.length // BLOCK * BLOCK - begin for row, begin in zip(rows, begins.tolist(), strict=True)]
    slots = np.empty((len(rows), size, max(held) + tails.shape[2]), np.int64)
    for index, before in enumerate(held):
        end = before + tails.shape[2]
        slots[index, :, :before] = begins[index] + np.arange(before)
        slots[index, :, before:end] = tails[index]
        slots[index, :, end:] = tails[index, :, -1:]
    return slots


def ordered_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    places: BranchOrderPlaces,
    *,
    scaling: float,
    softcap: float | None = None,
) -> Tensor:
    """Return what each node attends to: its own branch.

    Args:
        query: [B, heads, n, width].
        keys: [B, key heads, S, width]; heads is a multiple of key heads.
        values: [B, key heads, S, value width].
        places: Where the nodes' text lies.
        scaling: Factor on the scores.
        softcap: Upper bound of the scores, which a tanh applies (Gemma 2), or None.

    Returns:
        [B, heads, n, value width].
    """
    batch, heads, nodes, width = query.shape
    exact = torch.promote_types(query.dtype, torch.float32)
    folded = query.view(batch, keys.shape[1], -1, nodes, width).transpose(2, 3).to(exact) * scaling
    scores = _scores(folded, keys, places)
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    scores = scores.masked_fill(~places.seen[:, None, :, None, :], torch.finfo(exact).min)
    shares = (scores - scores.amax(-1, keepdim=True)).exp()  # an exact 0 where nothing is seen
    weights = torch.unflatten(shares, -1, (-1, BLOCK)).sum(-1).unbind(-1)
    weight = weights[0]
    for of_block in weights[1:]:  # in their order; a block that the node does not see adds exactly 0
        weight = weight + of_block
    attended: Tensor = (_total(shares, values, places) / weight[..., None]).to(query.dtype)
    return attended.transpose(2, 3).reshape(batch, heads, nodes, values.shape[3])


def _scores(folded: Tensor, keys: Tensor, places: BranchOrderPlaces) -> Tensor:
    """Return [B, key heads, n, group, places] of queries [B, key heads, n, group, width]."""
    together = folded.flatten(2, 3)
    blocks = [
        torch.matmul(together, _far(keys, begin, folded.dtype).transpose(2, 3)).view(*folded.shape[:4], BLOCK)
        for begin in range(*places.far, BLOCK)
    ]
    blocks += [torch.matmul(folded, block.transpose(3, 4)) for block in _near(keys, places, folded.dtype)]
    return torch.cat(blocks, dim=-1)


def _total(shares: Tensor, values: Tensor, places: BranchOrderPlaces) -> Tensor:
    """Return values summed by their shares, in the order of the text: [B, key heads, n, group, value width].

    Values that no node sees are replaced by 0: their memory may hold NaNs.
    """
    first, end = places.far
    unseen = ~places.seen.any(1)
    total = shares.new_zeros(*shares.shape[:4], values.shape[3])
    for begin in range(first, end, BLOCK):
        at = slice(begin - first, begin - first + BLOCK)
        block = _far(values, begin, shares.dtype).masked_fill(unseen[:, None, at, None], 0.0)
        total = total + torch.matmul(shares[..., at].flatten(2, 3), block).view_as(total)
    hidden = ~places.seen[:, None, :, end - first :, None]
    for index, block in enumerate(_near(values, places, shares.dtype)):
        at = slice(index * BLOCK, (index + 1) * BLOCK)
        of_block = shares[..., end - first :][..., at]
        total = total + torch.matmul(of_block, block.masked_fill(hidden[:, :, :, at], 0.0))
    return total


def _far(kept: Tensor, begin: int, dtype: torch.dtype) -> Tensor:
    """Return a block of keys or values, read in place: [B, key heads, 64, width]."""
    return kept[:, :, begin : begin + BLOCK].to(dtype).contiguous()


def _near(kept: Tensor, places: BranchOrderPlaces, dtype: torch.dtype) -> list[Tensor]:
    """Return the gathered blocks of keys or values: each [B, key heads, n, 64, width]."""
    rows = torch.arange(len(kept), device=kept.device)[:, None, None]
    found = kept.transpose(1, 2)[rows, places.near].permute(0, 3, 1, 2, 4).to(dtype)
    return list(torch.split(found, BLOCK, dim=3))
