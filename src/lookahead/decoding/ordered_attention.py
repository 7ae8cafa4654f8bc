"""Attention of each node to its own branch, in the order of the text, in products of one shape.

A product's row depends, to the last bit, on how many rows and columns the product has; a sum on the order of
what is added. So every node's keys are looked up by the slot table, taken in blocks that begin at multiples
of 64 places, and multiplied in products of one shape, block by block. What comes of a node is then a function
of its text alone, wherever in the cache that lies and whatever else is in the forward.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lookahead.decoding.slots import slot_table
from lookahead.decoding.tree_attention import RowOfTrees

BLOCK = 64
"""Keys of a product; blocks begin at multiples of it, counted in places of the text."""


@dataclass(frozen=True)
class OrderedPlaces:
    """Where in the cache the text of each node lies.

    Attributes:
        slots: int64 [B, n, places], places a multiple of `BLOCK`.
        first: int64 [B, n], the first place that a node sees.
        last: int64 [B, n], its own place.
    """

    slots: Tensor
    first: Tensor
    last: Tensor

    @classmethod
    def of(
        cls,
        rows: Sequence[RowOfTrees],
        *,
        start: int,
        size: int,
        window: int | None = None,
        chunk: int | None = None,
    ) -> "OrderedPlaces":
        """Return the places of draft trees behind a cache; see `tree_mask` for what is given."""
        trees, lengths = [row.tree for row in rows], [row.length for row in rows]
        tails = slot_table(trees, lengths, start, size, BLOCK)
        ends = [length // BLOCK * BLOCK + tails.shape[2] for length in lengths]
        slots = np.empty((len(rows), size, max(ends)), np.int64)
        last = np.empty((len(rows), size), np.int64)
        first = np.empty((len(rows), size), np.int64)
        for index, (row, end) in enumerate(zip(rows, ends, strict=True)):
            held = end - tails.shape[2]
            slots[index, :, :held] = np.arange(held)
            slots[index, :, held:end] = tails[index]
            slots[index, :, end:] = tails[index, :, -1:]
            last[index] = row.length
            last[index, : len(row.tree)] += row.tree.depths
            first[index] = row.left_padding
            if window is not None:
                first[index] = np.maximum(first[index], last[index] - window + 1)
            if chunk is not None:
                begun = (last[index] - row.left_padding) // chunk * chunk + row.left_padding
                first[index] = np.maximum(first[index], begun)
        return cls(*(torch.from_numpy(array) for array in (slots, first, last)))

    def to(self, device: torch.device) -> "OrderedPlaces":
        """Return the places on a device."""
        return OrderedPlaces(self.slots.to(device), self.first.to(device), self.last.to(device))


def ordered_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    places: OrderedPlaces,
    *,
    scaling: float,
    softcap: float | None = None,
) -> Tensor:
    """Attend, each node to its own branch.

    Args:
        query: [B, heads, n, width].
        keys: [B, key heads, S, width]; heads is a multiple of key heads.
        values: [B, key heads, S, value width].
        places: where the nodes' text lies.
        scaling: factor on the scores.
        softcap: what the scores come near to and never exceed, by a tanh (Gemma 2), or None.

    Returns:
        [B, heads, n, value width].
    """
    batch, heads, nodes, width = query.shape
    key_heads = keys.shape[1]
    exact = torch.promote_types(query.dtype, torch.float32)
    folded = (
        query.view(batch, key_heads, heads // key_heads, nodes, width).transpose(2, 3).to(exact) * scaling
    )
    top = folded.new_full((*folded.shape[:4], 1), torch.finfo(exact).min)
    weight = torch.zeros_like(top)
    total = folded.new_zeros((*folded.shape[:4], values.shape[3]))
    rows = torch.arange(batch, device=query.device)[:, None, None]
    for begin in range(0, places.slots.shape[2], BLOCK):
        slots = places.slots[:, :, begin : begin + BLOCK]
        of_block = (keys.transpose(1, 2)[rows, slots], values.transpose(1, 2)[rows, slots])
        block_keys, block_values = (part.permute(0, 3, 1, 2, 4).to(exact) for part in of_block)
        at = torch.arange(begin, begin + BLOCK, device=query.device)
        seen = (at >= places.first[..., None]) & (at <= places.last[..., None])
        seen = seen[:, None, :, None, :]
        scores = torch.matmul(folded, block_keys.transpose(3, 4))
        if softcap is not None:
            scores = (scores / softcap).tanh() * softcap
        scores = scores.masked_fill(~seen, torch.finfo(exact).min)
        above = torch.maximum(top, scores.amax(-1, keepdim=True))
        shares = (scores - above).exp().masked_fill(~seen, 0.0)
        decay = (top - above).exp()
        weight = weight * decay + shares.sum(-1, keepdim=True)
        block_values = block_values.masked_fill(~seen.transpose(3, 4), 0.0)  # nothing may be kept there
        total = total * decay + torch.matmul(shares, block_values)
        top = above
    attended = (total / weight).to(query.dtype)
    return attended.transpose(2, 3).reshape(batch, heads, nodes, values.shape[3])
