"""What a model holds most likely after each token of its vocabulary: drafts before anything is read."""

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from lookahead.decoding.sampling.topk import topk_successors
from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.tree import DraftTree
from lookahead.errors import UnsupportedModelError
from lookahead.hf.compat.layout import attention_layout, fresh_cache
from lookahead.hf.steps.step_model import TransformersStepModel
from lookahead.hf.steps.verification import VerificationMode
from lookahead.hf.support.probe import probe
from lookahead.hf.support.trial import trial_step_model

_TOKENS_A_FORWARD = 256


@torch.no_grad()
def vocabulary_successors(
    model: PreTrainedModel,
    context: Sequence[int],
    max_tokens: int | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Int32Array:
    """Return the likeliest next tokens after each token that the model can read, likeliest first.

    All are read behind the same context, side by side as branches of a draft: as much work as reading a text
    of so many tokens, with each one's logits.

    Args:
        model: a decoder-only model that can verify trees.
        context: tokens to read before; what is likely at the end of an answer's sentence serves well.
        max_tokens: read so many of the first tokens; all if not given.
        on_progress: called now and then with how many tokens are done, and of how many.

    Returns:
        int32 [V, k].

    Raises:
        UnsupportedModelError: the model cannot verify trees.
    """
    embeddings: Any = model.get_input_embeddings()
    size = int(embeddings.weight.shape[0])
    size = size if max_tokens is None else min(size, max_tokens)
    *before, root = context
    successors: list[Int32Array] = []
    with closing(_prefilled_for_trees(model, before or [root])) as step_model:
        for begin in range(0, size, _TOKENS_A_FORWARD - 1):
            end = min(size, begin + _TOKENS_A_FORWARD - 1)
            logits = step_model.forward({0: _side_by_side(root, np.arange(begin, end, dtype=np.int32))})
            step_model.keep({0: []})
            successors.append(topk_successors(logits[0][1:]))
            on_progress(end, size)
    return np.concatenate(successors)


def _prefilled_for_trees(model: PreTrainedModel, prompt: Sequence[int]) -> TransformersStepModel:
    layout = attention_layout(model, fresh_cache(model))
    trusted = probe(model, layout)
    if trusted.mode is not VerificationMode.TREE:
        message = (
            f"{type(model).__name__} cannot read a vocabulary side by side, as the branches of a tree: "
            f"{trusted.reason}; leave the vocabulary to be learned while generating"
        )
        raise UnsupportedModelError(message)
    return trial_step_model(
        model, layout, prompt, max_nodes=_TOKENS_A_FORWARD, verification=trusted.verification
    )


def _side_by_side(root: int, tokens: Int32Array) -> DraftTree:
    return DraftTree(
        np.concatenate([np.array([root], np.int32), tokens]),
        np.concatenate([np.array([-1]), np.zeros(len(tokens))]).astype(np.int32),
        np.concatenate([np.array([0]), np.ones(len(tokens))]).astype(np.int32),
        np.ones(1 + len(tokens)),
    )
