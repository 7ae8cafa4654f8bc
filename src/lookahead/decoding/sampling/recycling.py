"""What the model itself holds most likely next, picked out of the logits that verification needed anyway."""

from torch import Tensor

from lookahead.decoding.sampling.topk import topk_indices
from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.log.successors import SUCCESSORS


def topk_successors(logits: Tensor) -> Int32Array:
    """Return each node's likeliest next tokens, likeliest first.

    Args:
        logits: [n, V], as the model gave them, before any processor.

    Returns:
        int32 [n, k] on the CPU, k at most SUCCESSORS.
    """
    return topk_indices(logits, min(SUCCESSORS, logits.shape[-1]))
