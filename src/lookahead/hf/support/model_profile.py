"""`ModelProfile`: how to verify a model's drafts, its step times and its lock, found out at its first use."""

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lookahead.config import LookaheadConfig
from lookahead.drafting.budget.controller import BudgetController
from lookahead.drafting.budget.policy import BudgetPolicy
from lookahead.drafting.budget.step_times_table import StepTimesTable, rows_bucket
from lookahead.hf.compat.call import GenerateCall
from lookahead.hf.compat.fingerprint.places import replaced_code
from lookahead.hf.compat.fingerprint.watch import Fingerprint, ModelWatch
from lookahead.hf.compat.layout import AttentionLayout
from lookahead.hf.compat.limits import DraftLimits
from lookahead.hf.compat.traits import ModelTraits, traits_key
from lookahead.hf.steps import compiled_cpu
from lookahead.hf.steps.step_inputs import StepInputs
from lookahead.hf.steps.verification import PLAIN, Verification, VerificationMode
from lookahead.hf.support.flat_trial import why_not_flat
from lookahead.hf.support.probe import ProbeResult, probe
from lookahead.hf.support.simd_alignment import misalignment_reason

_RIDGE_TOKENS = {"cuda": 128.0}
_OTHER_RIDGE_TOKENS = 16.0
"""Tokens at which computing takes about as long as reading the weights: a processor's arithmetic per second
÷ its memory bandwidth, for 2 bytes and 2 operations per weight. CPUs have 8 to 40, the first steps tell."""


@dataclass(eq=False)
class ModelProfile:
    """Everything known about one model, kept as long as the model lives.

    Attributes:
        traits: Its traits; None before the first use.
        look: What was found out when its fingerprint was taken last; None before the first use.
        controllers: Its budget controllers, by what step times depend on.
        probes: The probe's results, by what they depend on.
        why_not_flat: By the same, why the rows of a step cannot lie one after the other; empty if they can.
        misalignments: Why torch would split vectors between threads, by width, rows and threads.
        warned: Reasons for plain steps that were warned of.
        lock: Held during forward passes that change the model.
    """

    traits: ModelTraits | None = None
    look: "Look | None" = None
    controllers: dict[object, BudgetController] = field(default_factory=dict)
    probes: dict[object, ProbeResult] = field(default_factory=dict)
    why_not_flat: dict[object, str] = field(default_factory=dict)
    misalignments: dict[object, str] = field(default_factory=dict)
    warned: set[str] = field(default_factory=set)
    lock: RLock = field(default_factory=RLock)


@dataclass(frozen=True)
class Look:
    """What was found out about a model with a fingerprint.

    Attributes:
        fingerprint: The fingerprint.
        replaced: Which code of the libraries was replaced by code of others, in words; empty if none was.
        is_compiled: Whether the compiled CPU decoder supports it.
    """

    fingerprint: Fingerprint
    replaced: str
    is_compiled: bool


class ModelProfiles:
    """The profiles of all models used so far.

    Args:
        config: The settings.
    """

    def __init__(self, config: LookaheadConfig) -> None:
        self._config = config
        self._profiles: WeakKeyDictionary[PreTrainedModel, ModelProfile] = WeakKeyDictionary()

    def traits(self, model: PreTrainedModel) -> ModelTraits:
        """Return a model's traits, computed again when its dtype, device, attention or limits change."""
        profile = self._profile(model)
        known = profile.traits
        if known is None or known.key != traits_key(model) or known.limits != DraftLimits.of(model):
            known = profile.traits = ModelTraits.of(model)
        return known

    def max_nodes(self, verification: Verification, rows: int) -> int:
        """Return the maximum nodes of each of `rows` rows in one forward pass."""
        nodes, width = self._config.max_nodes(rows_bucket(rows)), verification.fixed_width
        return nodes if width is None else min(nodes, width)

    def controller(
        self, model: PreTrainedModel, verification: Verification, runner_name: str
    ) -> BudgetController:
        """Return the budget controller of a model with this verification and runner."""
        controllers = self._profile(model).controllers
        setting = (traits_key(model), runner_name)
        if setting not in controllers:
            max_nodes = partial(self.max_nodes, verification)
            is_auto = self._config.decoding_length == "auto"
            controllers[setting] = BudgetController(
                max_nodes,
                BudgetPolicy(max_nodes(1)) if is_auto else None,
                StepTimesTable(max_nodes(1), _RIDGE_TOKENS.get(model.device.type, _OTHER_RIDGE_TOKENS)),
            )
        return controllers[setting]

    def of_call(self, call: GenerateCall, layout: AttentionLayout) -> tuple[Verification, StepInputs]:
        """Return how a call's drafts are verified, and its steps' inputs besides tokens, cache and mask.

        If either is unknown, steps are plain, with one warning per model and reason.
        """
        model, rows = call.model, len(call.input_ids)
        found = self.verification(model, layout, rows)
        if found.mode is VerificationMode.PLAIN:
            return found, StepInputs()
        reason = self._plain_reason(call, found, rows)
        if reason:
            self._warn_once(model, reason)
            return PLAIN, StepInputs()
        step_inputs = StepInputs.of(model, call.input_ids, call.model_kwargs, layout)
        if step_inputs.unserved:
            self._warn_once(model, f"it is not known how its steps use {', '.join(step_inputs.unserved)}")
            return PLAIN, step_inputs
        return found, step_inputs

    def verification(self, model: PreTrainedModel, layout: AttentionLayout, rows: int) -> Verification:
        """Return how the drafts of a batch of `rows` rows are verified; a model's first use runs the probe.

        If that is not by trees, one warning per model says why.
        """
        look = self._look(model)
        tries_compiled = self._config.compiled_cpu and look.is_compiled
        if look.replaced:
            self._warn_once(model, look.replaced)
            return PLAIN
        if model.training:  # dropout draws random numbers in each forward pass
            return PLAIN
        if self._config.decoding_length == 1 and not tries_compiled and not self._config.reproducible:
            return PLAIN
        profile, traits = self._profile(model), self.traits(model)
        by_slots = rows > 1 and bool(traits.bias)
        setting = (traits.key, by_slots, layout.unsupported, tries_compiled)
        probes = profile.probes  # replaced, not emptied, when the model's code changes
        if setting not in probes:
            with self.lock(model):
                found = probes[setting] = probe(
                    model,
                    layout,
                    tries_trees=not by_slots,
                    tries_compiled=tries_compiled,
                    fixed_width=self._config.fixed_width,
                )
            self._warn_once(model, found.reason, found.mode)
        verification = probes[setting].verification
        may_differ = verification.rows_may_differ and not traits.limits.counts_slots_somewhere
        verification = replace(verification, rows_may_differ=may_differ)
        if rows == 1 or verification.is_compiled or verification.fixed_width is not None:
            return verification
        if setting not in profile.why_not_flat:
            with self.lock(model):
                profile.why_not_flat[setting] = why_not_flat(model, layout, verification)
        return replace(verification, is_flat=not profile.why_not_flat[setting])

    def lock(self, model: PreTrainedModel) -> AbstractContextManager[Any]:
        """Return the context of a model's forward passes.

        A tree's forward pass changes some models while it runs, so they serve one thread at a time.
        """
        if self.traits(model).changes_in_forwards or self._config.reproducible:
            return self._profile(model).lock
        return nullcontext()

    def watch(self, model: PreTrainedModel) -> ModelWatch:
        """Return a new watch of a model."""
        with self._changes_lock(model):
            return ModelWatch(model)

    def _changes_lock(self, model: PreTrainedModel) -> AbstractContextManager[Any]:
        """Return the lock under which a model is looked at, since its forward passes may change it."""
        profile = self._profile(model)
        is_changed = profile.traits is not None and profile.traits.changes_in_forwards
        return profile.lock if is_changed else nullcontext()

    def _profile(self, model: PreTrainedModel) -> ModelProfile:
        return self._profiles.setdefault(model, ModelProfile())

    def _look(self, model: PreTrainedModel) -> Look:
        """Look at a model again if its fingerprint changed; forget what was found out by trying its code."""
        profile = self._profile(model)
        with self._changes_lock(model):
            fingerprint = Fingerprint.of(model)
        known = profile.look
        if known is not None and known.fingerprint == fingerprint and not known.replaced:
            return known
        # Foreign code is looked at in each call: another function may have the same address.
        if known is None or known.replaced or known.fingerprint.code != fingerprint.code:
            profile.traits, profile.probes, profile.why_not_flat = None, {}, {}
        replaced = replaced_code(model)
        is_compiled = not replaced and not compiled_cpu.unsupported_reason(model)
        profile.look = Look(fingerprint, replaced, is_compiled)
        return profile.look

    def _plain_reason(self, call: GenerateCall, found: Verification, rows: int) -> str:
        """Return why this call is decoded in plain steps although the model supports drafts; else empty."""
        model = call.model
        if self._config.reproducible and not _is_padded_left(call):
            return "its prompts are padded elsewhere than on the left"
        if found.fixed_width is not None:
            reason = self._misalignment_reason(model, found.fixed_width, rows)
            if reason:
                return reason
        limits = self.traits(model).limits
        ends = (limits.rope_switch, limits.rope_growth)
        if rows > 1 and any(end is not None and call.max_slots > end for end in ends):
            return "its rotary frequencies change with the length of the longest row"
        return ""

    def _misalignment_reason(self, model: PreTrainedModel, width: int, rows: int) -> str:
        known, setting = self._profile(model).misalignments, (width, rows, torch.get_num_threads())
        if setting not in known:
            known[setting] = misalignment_reason(model, width, rows)
        return known[setting]

    def _warn_once(
        self, model: PreTrainedModel, reason: str, mode: VerificationMode = VerificationMode.PLAIN
    ) -> None:
        """Warn, once per model and reason, that calls are not decoded in trees."""
        warned = self._profile(model).warned
        if reason not in warned:
            warned.add(reason)
            _warn(model, mode, reason)


def _is_padded_left(call: GenerateCall) -> bool:
    mask: Tensor | None = call.model_kwargs.get("attention_mask")
    return mask is None or bool((mask.long().diff(dim=-1) >= 0).all())


def _warn(model: PreTrainedModel, mode: VerificationMode, reason: str) -> None:
    if mode is not VerificationMode.TREE and reason:
        steps = "drafts of one branch" if mode is VerificationMode.CHAIN else "plain steps, without drafts"
        warnings.warn(f"{type(model).__name__} is decoded in {steps}: {reason}", stacklevel=2)
