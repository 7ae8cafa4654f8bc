"""What the model itself holds most likely next, picked out of the logits that verification needed anyway."""

import torch
from torch import Tensor

from lookahead.drafting.successors import SUCCESSORS
from lookahead.drafting.tree import Int32Array


def likeliest_successors(logits: Tensor) -> Int32Array:
    """Return each node's likeliest next tokens, likeliest first.

    Args:
        logits: [n, V], as the model gave them, before any processor.

    Returns:
        int32 [n, k] on the CPU, k at most SUCCESSORS.
    """
    count = min(SUCCESSORS, logits.shape[-1])
    likeliest: Int32Array = logits.topk(count).indices.to("cpu", torch.int32).numpy()
    return likeliest
