"""Profile a model: the time of a decoding step after each context, and its distance from the lower bound."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from lookahead.bench.profile.bandwidth import Bandwidth, measured_bandwidth, weight_bytes
from lookahead.bench.profile.generation import (
    DECODING_LENGTH,
    never_ending,
    profile_decoding,
    profile_first_token,
    profile_memory,
)
from lookahead.bench.profile.host import profile_host
from lookahead.bench.profile.steps import CDL_ALLOWANCE, StepProfile, critical_length, profile_steps
from lookahead.config import LookaheadConfig
from lookahead.errors import ConfigError, UnsupportedModelError
from lookahead.hf.compat.config import context_length, text_config
from lookahead.hf.generate.checks import check_model
from lookahead.hf.steps.compiled_cpu import unsupported_reason
from lookahead.hf.steps.verification import Verification, VerificationMode
from lookahead.hf.support.probe import probe

DECODED_TOKENS = 64
"""Tokens generated to measure the parts of a step."""
MEMORY_TOKENS = 16
"""Tokens generated to measure peak memory; few, since recording every allocation is slow."""
MAX_NODES = 4096
MAX_REPEATS = 1000
_PIECE_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class ProfilePlan:
    """What to measure.

    Args:
        contexts: Tokens before the step.
        sizes: Nodes of the draft trees.
        repeats: Measured rounds of steps.
        compiled_cpu: Whether to use the compiled CPU step if the model allows it.

    Raises:
        ConfigError: A number is out of range.
    """

    contexts: tuple[int, ...]
    sizes: tuple[int, ...]
    repeats: int
    compiled_cpu: bool = True

    def __post_init__(self) -> None:
        for name, values, max_value in (
            ("context", self.contexts, None),
            ("size", self.sizes, MAX_NODES),
            ("repeats", (self.repeats,), MAX_REPEATS),
        ):
            wrong = [value for value in values if value < 1 or (max_value is not None and value > max_value)]
            if wrong or not values:
                allowed = "a positive integer" if max_value is None else f"an integer from 1 to {max_value}"
                message = f"{name}={wrong[0] if wrong else values} is not allowed; give {allowed}"
                raise ConfigError(message)

    @property
    def behind(self) -> int:
        """Maximum number of tokens after a context."""
        return max(*self.sizes, DECODED_TOKENS + 1)


def fitting_contexts(model: PreTrainedModel, plan: ProfilePlan) -> tuple[list[int], list[int]]:
    """Return the contexts that fit the model's positions, and the ones that do not, each once.

    Raises:
        ConfigError: None of them fits.
    """
    positions = context_length(model)
    contexts = list(dict.fromkeys(plan.contexts))
    fit = [tokens for tokens in contexts if positions is None or tokens + plan.behind <= positions]
    if not fit:
        message = (
            f"no context of {', '.join(map(str, contexts))} fits the model's {positions} "
            f"positions with {plan.behind} tokens behind it; give a shorter --context"
        )
        raise ConfigError(message)
    return fit, [tokens for tokens in contexts if tokens not in fit]


def profile_model(
    model: PreTrainedModel, plan: ProfilePlan, *, on_progress: Callable[[str], None] = lambda _what: None
) -> dict[str, Any]:
    """Measure everything, and return it as JSON-serialisable values.

    Args:
        model: A decoder-only model.
        plan: What to measure.
        on_progress: Called with a description of each stage.

    Raises:
        UnsupportedModelError: Drafts of this model can be verified neither in trees nor in chains.
        ConfigError: No context fits the model's positions.
    """
    check_model(model)
    contexts, skipped = fitting_contexts(model, plan)
    on_progress("asking the probe")
    verification, reason = _verification(model, compiled_cpu=plan.compiled_cpu)
    on_progress("measuring the memory's bandwidth")
    bandwidth, weights = measured_bandwidth(model.device), weight_bytes(model)
    profiles = []
    with never_ending(model):
        for tokens in contexts:
            on_progress(f"profiling behind {tokens} tokens")
            profiles.append(_profile_context(model, tokens, plan, verification, weights, bandwidth))
    return {
        "verification": verification.mode.value,
        "verification_reason": reason,
        "fused_step": verification.is_compiled,
        "cdl_allowance": CDL_ALLOWANCE,
        "weight_bytes": weights,
        "bandwidth": {"bytes_per_s": bandwidth.bytes_per_s, "kernel": bandwidth.kernel},
        "skipped_contexts": skipped,
        "contexts": profiles,
    }


def context_prompt(tokens: int, vocabulary: int) -> list[int]:
    """Return a context of random tokens that repeats itself, so that there is something to draft."""
    random = np.random.default_rng(0)
    piece = random.integers(0, vocabulary, min(tokens, _PIECE_TOKENS))
    return [int(token) for token in np.resize(piece, tokens)]


def describe_steps(steps: StepProfile, *, weights: int, bandwidth: Bandwidth) -> dict[str, Any]:
    """Return measured steps with their ratios to `generate`, to T(1) and to the lower bound by bandwidth."""
    floor_s = (weights + steps.cache_bytes) / bandwidth.bytes_per_s
    critical = critical_length(steps.step_s)
    return {
        "floor": {"cache_bytes": steps.cache_bytes, "seconds": floor_s},
        "generate_step": {"seconds": steps.generate_s, "over_floor": steps.generate_s / floor_s},
        "steps": [
            {
                "nodes": size,
                "seconds": seconds,
                "over_generate": seconds / steps.generate_s,
                "over_one": seconds / steps.step_s[1],
                "over_floor": seconds / floor_s,
            }
            for size, seconds in steps.step_s.items()
        ],
        "critical_decoding_length": {"tokens": critical.tokens, "is_at_least": critical.is_at_least},
    }


def _profile_context(
    model: PreTrainedModel,
    tokens: int,
    plan: ProfilePlan,
    verification: Verification,
    weights: int,
    bandwidth: Bandwidth,
) -> dict[str, Any]:
    config = LookaheadConfig(decoding_length=DECODING_LENGTH, compiled_cpu=plan.compiled_cpu)
    prompt = context_prompt(tokens, text_config(model).vocab_size)
    steps = profile_steps(model, prompt, sizes=plan.sizes, repeats=plan.repeats, verification=verification)
    return {
        "context_tokens": tokens,
        **describe_steps(steps, weights=weights, bandwidth=bandwidth),
        "decoding": profile_decoding(model, prompt, new_tokens=DECODED_TOKENS, config=config),
        "host": profile_host(model, prompt, new_tokens=DECODED_TOKENS),
        "first_token": profile_first_token(model, prompt, repeats=plan.repeats, config=config),
        "memory": profile_memory(model, prompt, new_tokens=MEMORY_TOKENS, config=config),
    }


def _verification(model: PreTrainedModel, *, compiled_cpu: bool) -> tuple[Verification, str]:
    found = probe(model, tries_compiled=compiled_cpu and not unsupported_reason(model))
    if found.mode is VerificationMode.PLAIN:
        message = (
            f"{type(model).__name__} is decoded in plain steps ({found.reason}), so there are no sizes to "
            "profile; give a model whose drafts can be verified: `lookahead check` tells"
        )
        raise UnsupportedModelError(message)
    return found.verification, found.reason
