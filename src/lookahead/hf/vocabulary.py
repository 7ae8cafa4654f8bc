"""What a model holds most likely after each token of its vocabulary alone: drafts before anything is read."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from lookahead.decoding.recycling import likeliest_successors
from lookahead.drafting.tree import Int32Array

_TOKENS_A_FORWARD = 256


@torch.no_grad()
def vocabulary_successors(
    model: PreTrainedModel, on_progress: Callable[[int, int], None] = lambda _done, _all: None
) -> Int32Array:
    """Return the likeliest next tokens after each token that the model can read, likeliest first.

    One pass over the vocabulary: as much work as reading a text of so many tokens, and each one's logits.

    Args:
        model: a decoder-only model.
        on_progress: called now and then with how many tokens are done, and of how many.

    Returns:
        int32 [V, k].
    """
    embeddings: Any = model.get_input_embeddings()
    size = int(embeddings.weight.shape[0])
    successors: list[Int32Array] = []
    for begin in range(0, size, _TOKENS_A_FORWARD):
        end = min(size, begin + _TOKENS_A_FORWARD)
        token_ids = torch.arange(begin, end, device=model.device)[:, None]
        logits = model(input_ids=token_ids, use_cache=False).logits[:, -1]
        successors.append(likeliest_successors(logits))
        on_progress(end, size)
    return np.concatenate(successors)
