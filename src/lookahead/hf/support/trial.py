"""A step model outside any call of `generate`, for trying out a model."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from lookahead.hf.compat.changes import TemporaryChanges
from lookahead.hf.compat.layout import AttentionLayout
from lookahead.hf.compat.modifications import restore_rope_state, rope_state
from lookahead.hf.compat.traits import ModelTraits
from lookahead.hf.steps.call_steps import CallStepModel
from lookahead.hf.steps.cuda_graphs import CapturedModels
from lookahead.hf.steps.step_inputs import StepInputs
from lookahead.hf.steps.verification import TREE, Verification


def trial_step_model(
    model: PreTrainedModel,
    layout: AttentionLayout,
    prompt: Sequence[int],
    *,
    max_nodes: int,
    verification: Verification = TREE,
    graphs: CapturedModels | None = None,
) -> CallStepModel:
    """Return a step model whose row 0 has read a prompt, with a cache of its own.

    Args:
        model: A decoder-only model.
        layout: How its layers see the past.
        prompt: At least one token.
        max_nodes: Upper bound on the nodes of a draft tree.
        verification: How drafts are verified.
        graphs: The captured steps of models; None captures nothing.
    """
    ids = torch.tensor([list(prompt)], device=model.device)
    model_kwargs: dict[str, Any] = {
        "attention_mask": None,
        "position_ids": torch.arange(len(prompt), device=model.device)[None],
        "use_cache": True,
    }
    step_model = CallStepModel(
        model,
        ModelTraits.of(model),
        layout,
        ids,
        model.generation_config,
        model_kwargs,
        verification=verification,
        max_new_tokens=8,
        max_nodes=max_nodes,
        step_inputs=StepInputs.of(model, ids, model_kwargs, layout),
        graphs=graphs,
    )
    step_model.prefill()
    return step_model


def restore_later(model: PreTrainedModel, changes: TemporaryChanges) -> None:
    """Restore torch's random state and the model's rotary state when the changes are undone."""
    state = torch.get_rng_state()
    changes.undo_by(lambda: torch.set_rng_state(state))
    if model.device.type == "cuda":
        of_device = torch.cuda.get_rng_state(model.device)
        changes.undo_by(lambda: torch.cuda.set_rng_state(of_device, model.device))
    for module in model.modules():
        if hasattr(module, "rope_type"):
            changes.undo_by(partial(restore_rope_state, module, rope_state(module)))
