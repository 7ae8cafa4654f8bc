"""Reading a model's vocabulary: the top-k next tokens after each token, before any text is read."""

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
from lookahead.hf.models.packed_modules import outputs_of
from lookahead.hf.steps.step_model import TransformersStepModel
from lookahead.hf.steps.verification import VerificationMode
from lookahead.hf.support.probe import probe
from lookahead.hf.support.trial import trial_step_model

_NODES_PER_FORWARD = 256


@torch.no_grad()
def vocabulary_successors(
    model: PreTrainedModel,
    context: Sequence[int],
    limit: int | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Int32Array:
    """Return the top-k next tokens after each token of the vocabulary, most probable first.

    All tokens are read after the same context, as sibling branches of a draft tree. This takes as long as
    reading a text of as many tokens and computing the logits of each.

    Args:
        model: A decoder-only model that can verify trees.
        context: Token ids to read first; the end of a sentence serves well.
        limit: Read only the first N tokens of the vocabulary; all if None.
        on_progress: Called repeatedly with the number of tokens done and their total.

    Returns:
        int32 [V, k].

    Raises:
        UnsupportedModelError: The model cannot verify trees.
    """
    embeddings: Any = model.get_input_embeddings()
    size = outputs_of(embeddings)
    size = size if limit is None else min(size, limit)
    *before, root = context
    successors: list[Int32Array] = []
    with closing(_tree_step_model(model, before or [root])) as step_model:
        for begin in range(0, size, _NODES_PER_FORWARD - 1):
            end = min(size, begin + _NODES_PER_FORWARD - 1)
            logits = step_model.forward({0: _tree_of_children(root, np.arange(begin, end, dtype=np.int32))})
            step_model.keep({0: []})
            successors.append(topk_successors(logits[0][1:]))
            on_progress(end, size)
    return np.concatenate(successors)


def _tree_step_model(model: PreTrainedModel, prompt: Sequence[int]) -> TransformersStepModel:
    layout = attention_layout(model, fresh_cache(model))
    result = probe(model, layout)
    if result.mode is not VerificationMode.TREE:
        message = (
            f"{type(model).__name__} cannot read its vocabulary as the branches of a tree: {result.reason}; "
            "leave it out: the memory learns the same tokens while generating"
        )
        raise UnsupportedModelError(message)
    return trial_step_model(
        model, layout, prompt, max_nodes=_NODES_PER_FORWARD, verification=result.verification
    )


def _tree_of_children(root: int, tokens: Int32Array) -> DraftTree:
    """Return a tree with each of the tokens as a child of the root."""
    return DraftTree(
        np.concatenate([np.array([root], np.int32), tokens]),
        np.concatenate([np.array([-1]), np.zeros(len(tokens))]).astype(np.int32),
        np.concatenate([np.array([0]), np.ones(len(tokens))]).astype(np.int32),
        np.ones(1 + len(tokens)),
    )
