"""Chunked attention: a token sees only its own chunk of the text."""

import torch
from torch import Tensor

from lookahead.drafting.tree import DraftTree


def in_other_chunk(tree: DraftTree, prefix_length: int, next_position: int, chunk: int) -> Tensor:
    """Return which keys lie in another chunk than the node that would see them.

    Args:
        tree: n nodes.
        prefix_length: tokens in the cache before the tree.
        next_position: position of the tree's root; less than `prefix_length` by the tokens of padding.
        chunk: tokens of a chunk, counted by positions.

    Returns:
        bool [n, prefix_length + n].
    """
    depths = torch.from_numpy(tree.depths.astype("int64"))
    prefix = torch.arange(next_position - prefix_length, next_position)
    positions = torch.cat([prefix, next_position + depths])
    chunks = torch.div(positions, chunk, rounding_mode="floor")
    return chunks[None, :] != chunks[prefix_length:, None]
