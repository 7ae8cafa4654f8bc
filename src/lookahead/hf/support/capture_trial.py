"""A trial of captured steps: whether they agree with the model's own code, and how much faster they are."""

import warnings
from collections.abc import Sequence
from contextlib import closing

import torch
from transformers import PreTrainedModel

from lookahead.drafting.tree import DraftTree
from lookahead.hf.compat.layout import attention_layout, fresh_cache
from lookahead.hf.steps.cuda_graphs import CapturedModels, CaptureResult
from lookahead.hf.steps.verification import Verification
from lookahead.hf.support.trial import trial_step_model

_SIZES = (1, 8)
_USES = 6
"""Of each size: as it is, captured, replayed and compared, replayed."""


@torch.no_grad()
def capture_trial(model: PreTrainedModel, prompt: Sequence[int], verification: Verification) -> CaptureResult:
    """Capture steps of two sizes, replay them, and return how they compare with the model's own code.

    Args:
        model: On a CUDA device.
        prompt: At least one token.
        verification: How its drafts are verified.
    """
    captured = CapturedModels()
    layout = attention_layout(model, fresh_cache(model))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the result says the same
        with closing(
            trial_step_model(
                model, layout, prompt, max_nodes=max(_SIZES), verification=verification, graphs=captured
            )
        ) as step_model:
            for size in _SIZES:
                tree = DraftTree.chain([int(prompt[-1])] * size)
                for _ in range(_USES):
                    step_model.forward({0: tree})
                    step_model.keep({0: []})
    return captured.result(model)
