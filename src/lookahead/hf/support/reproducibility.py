"""Whether a model's text depends on drafts, how it can be had so that it does not, and what that costs."""

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
from lookahead.hf.support.simd_alignment import why_cut
from lookahead.hf.support.trial import trial_step_model

_PROMPT_TOKENS = 256
_REPETITIONS = 5
_SMALL_DRAFT = 8


class Way(StrEnum):
    """How text is had that depends on no draft."""

    COMPILED = "fused"
    """By fused steps, whose bits do not depend on drafts in any case."""
    ONE_SHAPE = "one shape"
    """By forwards of one shape, each branch in the order of the text."""
    PLAIN = "plain"
    """By steps of one token, without drafts."""


@dataclass(frozen=True)
class Reproducibility:
    """What of a model's text depends on drafts.

    Attributes:
        usual: what the model can be trusted with where text may depend on drafts in its last bits.
        why_not_compiled: why the compiled CPU decoder does not do its steps; empty where it does.
        dependence: how its logits then depend on drafts, in words; empty where they do not.
        way: how text is had that depends on none.
        width: tokens of a row in every forward pass of that way, where all have one width.
        reason: why that way is plain steps; empty elsewhere.
        of_one: seconds of a step in that way ÷ those of a usual one that verifies one token.
        of_small: the same ÷ those of a usual one that verifies eight.
    """

    usual: ProbeResult
    why_not_compiled: str
    dependence: str
    way: Way
    width: int | None
    reason: str
    of_one: float | None = None
    of_small: float | None = None


def way_of(verification: Verification) -> Way:
    """Return what a verification that depends on no draft is called."""
    if verification.mode is VerificationMode.PLAIN:
        return Way.PLAIN
    return Way.COMPILED if verification.is_compiled else Way.ONE_SHAPE


def reproducibility(model: PreTrainedModel, width: int, *, tries_compiled: bool = True) -> Reproducibility:
    """Find out what of a model's text depends on drafts; takes some dozens of forwards.

    Args:
        model: a decoder-only model.
        width: tokens of a row in every forward pass of fixed width.
        tries_compiled: whether to try the compiled CPU decoder.
    """
    layout = attention_layout(model, fresh_cache(model))
    not_compiled = compiled_cpu.unsupported_reason(model) if tries_compiled else "compiled_cpu=False"
    usual = probe(model, layout, tries_compiled=not not_compiled)
    dependence = dependence_on_drafts(model, layout, usual.verification)
    exact = probe(model, layout, tries_compiled=not not_compiled, fixed_width=width)
    found, reason = exact.verification, exact.reason
    cut = why_cut(model, width) if found.fixed_width is not None else ""
    if cut:
        found, reason = PLAIN, cut
    costs: Sequence[float | None] = (None, None)
    if way_of(found) is Way.ONE_SHAPE:
        costs = _costs(model, usual.verification, found)
    return Reproducibility(usual, not_compiled, dependence, way_of(found), found.fixed_width, reason, *costs)


@torch.no_grad()
def _costs(model: PreTrainedModel, usual: Verification, exact: Verification) -> tuple[float, float]:
    """Return how many times as long a step takes in the exact way, of usual ones of one token and of eight.

    They take turns, so that what drifts touches all alike; of each the median counts.
    """
    layout = attention_layout(model, fresh_cache(model))
    vocabulary: int = text_config(model).vocab_size
    tokens = min(_PROMPT_TOKENS, (context_length(model) or _PROMPT_TOKENS * 2) // 2)
    prompt = [int(token) for token in (np.arange(tokens) * 31 + 7) % vocabulary]
    seconds: dict[str, list[float]] = {"exact": [], "one": [], "small": []}
    with ExitStack() as stack:
        read = {
            way: stack.enter_context(
                closing(trial_step_model(model, layout, prompt, max_nodes=_SMALL_DRAFT, verification=way))
            )
            for way in (usual, exact)
        }
        runs = {"exact": (exact, 1), "one": (usual, 1), "small": (usual, _SMALL_DRAFT)}
        for turn in range(_REPETITIONS + 1):
            for name, (way, size) in runs.items():
                began = perf_counter()
                logits = read[way].forward({0: DraftTree.chain(prompt[:size])})
                logits[0][-1, 0].item()
                if turn:  # the first one warms up
                    seconds[name].append(perf_counter() - began)
                read[way].keep({0: []})
    middle = {name: median(taken) for name, taken in seconds.items()}
    return middle["exact"] / middle["one"], middle["exact"] / middle["small"]
