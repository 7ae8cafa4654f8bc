"""Whether a model's text depends on drafts, how to make it independent of them, and what that costs."""

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from time import perf_counter

import numpy as np
import torch
from transformers import PreTrainedModel

from lookahead.drafting.tree import DraftTree
from lookahead.hf.compat.config import context_length, text_config
from lookahead.hf.compat.layout import attention_layout, fresh_cache
from lookahead.hf.steps import compiled_cpu
from lookahead.hf.steps.verification import PLAIN, Verification, VerificationMode
from lookahead.hf.support.probe import ProbeResult, dependence_on_drafts, probe
from lookahead.hf.support.simd_alignment import misalignment_reason
from lookahead.hf.support.trial import trial_step_model

_PROMPT_TOKENS = 256
_REPETITIONS = 5
_SMALL_DRAFT = 8


class ReproducibleMethod(StrEnum):
    """How text is made independent of drafts."""

    COMPILED = "fused"
    """Steps by the compiled CPU decoder, whose bits never depend on drafts."""
    FIXED_WIDTH = "one shape"
    """Forward passes of one width, each branch in the order of the text."""
    PLAIN = "plain"
    """Steps of one token, without drafts."""


@dataclass(frozen=True)
class Reproducibility:
    """How a model's text depends on drafts, and how it is made independent of them.

    Attributes:
        usual: The probe's result when the last bits may depend on drafts.
        why_not_compiled: Why the compiled CPU decoder is not used; empty if it is.
        dependence: How the logits then depend on drafts, in words; empty if they do not.
        method: How text is made independent of drafts.
        width: Tokens per row in each forward pass of that method, if the width is fixed.
        reason: Why that method is plain steps; empty if it is not.
        step_ratio_1: Step time of that method ÷ that of a usual step of 1 token; None if not measured.
        step_ratio_8: The same ÷ that of a usual step of 8 tokens.
    """

    usual: ProbeResult
    why_not_compiled: str
    dependence: str
    method: ReproducibleMethod
    width: int | None
    reason: str
    step_ratio_1: float | None = None
    step_ratio_8: float | None = None


def reproducible_method_of(verification: Verification) -> ReproducibleMethod:
    """Return the method of a verification whose bits are independent of drafts."""
    if verification.mode is VerificationMode.PLAIN:
        return ReproducibleMethod.PLAIN
    return ReproducibleMethod.COMPILED if verification.is_compiled else ReproducibleMethod.FIXED_WIDTH


def reproducibility(model: PreTrainedModel, width: int, *, tries_compiled: bool = True) -> Reproducibility:
    """Find out how a model's text depends on drafts; this takes several dozen forward passes.

    Args:
        model: A decoder-only model.
        width: Tokens per row in each forward pass of fixed width.
        tries_compiled: Whether to try the compiled CPU decoder.
    """
    layout = attention_layout(model, fresh_cache(model))
    not_compiled = compiled_cpu.unsupported_reason(model) if tries_compiled else "compiled_cpu=False"
    usual = probe(model, layout, tries_compiled=not not_compiled)
    dependence = dependence_on_drafts(model, layout, usual.verification)
    exact = probe(model, layout, tries_compiled=not not_compiled, fixed_width=width)
    found, reason = exact.verification, exact.reason
    misalignment = misalignment_reason(model, width) if found.fixed_width is not None else ""
    if misalignment:
        found, reason = PLAIN, misalignment
    method = reproducible_method_of(found)
    ratios: Sequence[float | None] = (None, None)
    if method is ReproducibleMethod.FIXED_WIDTH:
        ratios = _step_ratios(model, usual.verification, found)
    return Reproducibility(usual, not_compiled, dependence, method, found.fixed_width, reason, *ratios)


@torch.no_grad()
def _step_ratios(model: PreTrainedModel, usual: Verification, exact: Verification) -> tuple[float, float]:
    """Return the time of an exact step ÷ that of usual steps of 1 token and of 8 tokens, by their medians.

    The steps take turns, so that drift affects all alike.
    """
    layout = attention_layout(model, fresh_cache(model))
    vocabulary: int = text_config(model).vocab_size
    tokens = min(_PROMPT_TOKENS, (context_length(model) or _PROMPT_TOKENS * 2) // 2)
    prompt = [int(token) for token in (np.arange(tokens) * 31 + 7) % vocabulary]
    seconds: dict[str, list[float]] = {"exact": [], "one": [], "small": []}
    with ExitStack() as stack:
        step_models = {
            verification: stack.enter_context(
                closing(
                    trial_step_model(model, layout, prompt, max_nodes=_SMALL_DRAFT, verification=verification)
                )
            )
            for verification in (usual, exact)
        }
        runs = {"exact": (exact, 1), "one": (usual, 1), "small": (usual, _SMALL_DRAFT)}
        for turn in range(_REPETITIONS + 1):
            for name, (verification, size) in runs.items():
                began = perf_counter()
                logits = step_models[verification].forward({0: DraftTree.chain(prompt[:size])})
                logits[0][-1, 0].item()
                if turn:  # the first turn warms up
                    seconds[name].append(perf_counter() - began)
                step_models[verification].keep({0: []})
    middle = {name: median(taken) for name, taken in seconds.items()}
    return middle["exact"] / middle["one"], middle["exact"] / middle["small"]
