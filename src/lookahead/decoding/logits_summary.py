"""What the host needs to know of a step's logits: computed where they are, copied back as one tensor."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.log.successors import SUCCESSORS

_ARGMAX, _MARGIN, _IS_NAN, _TOP = range(4)


def summarize(logits: Tensor) -> Tensor:
    """Return int32 [..., 3 + k] for logits [..., V], in a few operations that wait for nothing.

    The columns are the argmax; the bits of the float32 margin, by which the best logit exceeds the second;
    whether a logit is NaN; the top-k tokens, most probable first.
    """
    size = logits.shape[-1]
    largest, top = logits.topk(min(SUCCESSORS, size), dim=-1)  # a NaN counts as the largest
    largest = largest.float()
    second = largest[..., 1:2] if size > 1 else torch.full_like(largest, -torch.inf)
    margin = largest[..., :1] - second
    argmax = logits.argmax(dim=-1, keepdim=True)  # of equal logits the first, as in `generate`
    parts = (argmax.int(), margin.view(torch.int32), largest[..., :1].isnan().int(), top.int())
    return torch.cat(parts, dim=-1)


@dataclass(frozen=True)
class LogitsSummary:
    """What is known of the logits of n nodes.

    Attributes:
        table: int32 [n, 3 + k] on the host, of `summarize`.
    """

    table: Int32Array

    def argmax(self, node: int) -> int:
        """Return the most probable token after a node."""
        return int(self.table[node, _ARGMAX])

    def margin(self, node: int) -> float:
        """Return by how much the best logit after a node exceeds the second; NaN or infinite if undefined."""
        return float(self.table[node, _MARGIN : _MARGIN + 1].view(np.float32)[0])

    def is_nan(self, node: int) -> bool:
        """Return whether a logit after a node is NaN."""
        return bool(self.table[node, _IS_NAN])

    @property
    def successors(self) -> Int32Array:
        """The top-k tokens after each node, most probable first: int32 [n, k]."""
        return self.table[:, _TOP:]
