"""What is known of the models that were used: how to verify their drafts, and the pace of decoding."""

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lookahead.config import LookaheadConfig
from lookahead.drafting.budget.controller import BudgetController
from lookahead.drafting.budget.policy import BudgetPolicy
from lookahead.hf.attention.grouped_query import attention_name, changes_attention
from lookahead.hf.attention.position_bias import PositionBias
from lookahead.hf.compat.call import GenerateCall
from lookahead.hf.compat.layout import AttentionLayout
from lookahead.hf.compat.limits import DraftLimits
from lookahead.hf.steps.compiled_cpu import build_of, why_not_fused
from lookahead.hf.steps.step_inputs import StepInputs
from lookahead.hf.steps.step_times import context_bucket, rows_bucket
from lookahead.hf.steps.verification import PLAIN, ModelMode, Verification
from lookahead.hf.support.probe import ProbeResult, probe
from lookahead.hf.support.simd_alignment import why_cut


class ModelProfiles:
    """Remembers, as long as a model lives, what its first uses have shown.

    Args:
        config: the settings.
    """

    def __init__(self, config: LookaheadConfig) -> None:
        self._config = config
        self._paces: WeakKeyDictionary[PreTrainedModel, dict[object, BudgetController]] = WeakKeyDictionary()
        self._probes: WeakKeyDictionary[PreTrainedModel, dict[object, ProbeResult]] = WeakKeyDictionary()
        self._biases: WeakKeyDictionary[PreTrainedModel, PositionBias] = WeakKeyDictionary()
        self._builds: WeakKeyDictionary[PreTrainedModel, tuple[object, bool]] = WeakKeyDictionary()
        self._locks: WeakKeyDictionary[PreTrainedModel, RLock] = WeakKeyDictionary()
        self._cuts: WeakKeyDictionary[PreTrainedModel, dict[object, str]] = WeakKeyDictionary()
        self._told: WeakKeyDictionary[PreTrainedModel, set[str]] = WeakKeyDictionary()

    def pace(self, model: PreTrainedModel, input_ids: Tensor, verification: Verification) -> BudgetController:
        """Return what is known about drafting for a model and batches [B, L] of about this size."""
        paces = self._paces.setdefault(model, {})
        rows, length = input_ids.shape
        setting = (
            _setting(model),
            verification.is_fused,
            verification.shape,
            context_bucket(length),
            rows_bucket(rows),
        )
        if setting not in paces:
            most = self._config.max_nodes(rows_bucket(rows))
            if verification.shape is not None:
                most = min(most, verification.shape)
            is_auto = self._config.decoding_length == "auto"
            paces[setting] = BudgetController(most, BudgetPolicy(most) if is_auto else None)
        return paces[setting]

    def of_call(
        self, generate_call: GenerateCall, layout: AttentionLayout
    ) -> tuple[Verification, StepInputs]:
        """Return how a call's drafts are verified, and its steps' inputs beside tokens, cache and mask.

        Plain steps where nobody knows that; one warning for a model and such inputs names them.
        """
        model, rows = generate_call.model, len(generate_call.input_ids)
        found = self.verification(model, layout, rows)
        if found.mode is ModelMode.PLAIN:
            return found, StepInputs()
        if self._config.reproducible and not _is_padded_left(generate_call):
            self._tell(model, "its prompts are padded elsewhere than on the left")
            return PLAIN, StepInputs()
        cut = "" if found.shape is None else self._why_cut(model, found.shape, rows)
        if cut:
            self._tell(model, cut)
            return PLAIN, StepInputs()
        if rows > 1 and _frequencies_change(model, generate_call.max_slots):
            self._tell(model, "its rotary frequencies change with the length of the longest row")
            return PLAIN, StepInputs()
        step_inputs = StepInputs.of(model, generate_call.input_ids, generate_call.model_kwargs, layout)
        if not step_inputs.unserved:
            return found, step_inputs
        self._tell(model, f"it is not known what its steps do with {', '.join(step_inputs.unserved)}")
        return PLAIN, step_inputs

    def verification(self, model: PreTrainedModel, layout: AttentionLayout, rows: int) -> Verification:
        """Return how drafts for a batch of so many rows are verified; a model's first use asks the probe.

        One warning a model says why, where that is not by trees.
        """
        tries_fused = self._config.compiled_cpu and self._can_be_fused(model)
        if model.training:  # dropout draws for each forward it sees
            return PLAIN
        if self._config.decoding_length == 1 and not tries_fused and not self._config.reproducible:
            return PLAIN
        by_slots = rows > 1 and bool(self.position_bias(model))
        results = self._probes.setdefault(model, {})
        setting = (_setting(model), by_slots, layout.unsupported, tries_fused)
        if setting not in results:
            with self.lock(model):
                results[setting] = probe(
                    model,
                    layout,
                    tries_trees=not by_slots,
                    tries_fused=tries_fused,
                    shape=self._config.fixed_width,
                )
            _warn(model, results[setting].mode, results[setting].reason)
        found = results[setting].verification
        may_differ = found.rows_may_differ and not DraftLimits.of(model).counts_slots_somewhere
        return replace(found, rows_may_differ=may_differ)

    def _can_be_fused(self, model: PreTrainedModel) -> bool:
        """Return whether a model's step can be fused; it is looked through again when it has changed."""
        build = build_of(model)
        known = self._builds.get(model)
        if known is None or known[0] != build:
            known = self._builds[model] = (build, not why_not_fused(model))
        return known[1]

    def _why_cut(self, model: PreTrainedModel, shape: int, rows: int) -> str:
        known = self._cuts.setdefault(model, {})
        setting = (shape, rows, torch.get_num_threads())
        if setting not in known:
            known[setting] = why_cut(model, shape, rows)
        return known[setting]

    def position_bias(self, model: PreTrainedModel) -> PositionBias:
        """Return what of a model reads positions off slots; its modules are looked through once."""
        if model not in self._biases:
            self._biases[model] = PositionBias(model)
        return self._biases[model]

    def lock(self, model: PreTrainedModel) -> AbstractContextManager[Any]:
        """Return what a model's forwards are done within.

        A tree's forward changes some models for as long as it takes: they serve one thread at a time.
        """
        if self.position_bias(model) or changes_attention(model) or self._config.reproducible:
            return self._locks.setdefault(model, RLock())
        return nullcontext()

    def _tell(self, model: PreTrainedModel, reason: str) -> None:
        """Say once why a model's call is decoded in plain steps."""
        told = self._told.setdefault(model, set())
        if reason not in told:
            told.add(reason)
            _warn(model, ModelMode.PLAIN, reason)


def _is_padded_left(generate_call: GenerateCall) -> bool:
    mask: Tensor | None = generate_call.model_kwargs.get("attention_mask")
    return mask is None or bool((mask.long().diff(dim=-1) >= 0).all())


def _frequencies_change(model: PreTrainedModel, longest: int) -> bool:
    """Return whether, within so many slots, rotary frequencies change: in a batch for all rows at once."""
    limits = DraftLimits.of(model)
    return any(end is not None and longest > end for end in (limits.rope_switch, limits.rope_growth))


def _warn(model: PreTrainedModel, mode: ModelMode, reason: str) -> None:
    if mode is not ModelMode.TREE and reason:
        way = "drafts of one branch" if mode is ModelMode.CHAIN else "plain steps, without drafts"
        warnings.warn(f"{type(model).__name__} is decoded in {way}: {reason}", stacklevel=2)


def _setting(model: PreTrainedModel) -> tuple[object, ...]:
    """Return what a model's results and times depend on, beside its weights."""
    return (model.dtype, model.device, attention_name(model))
