"""Time verified forward passes by their size, and steps of `generate`, in one interleaved run."""

import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import torch
from transformers import PreTrainedModel

from lookahead.bench.profile.bandwidth import cache_bytes
from lookahead.drafting.tree import DraftTree
from lookahead.hf.compat.config import takes_positions, text_config
from lookahead.hf.compat.layout import attention_layout, fresh_cache
from lookahead.hf.steps.cuda_graphs import CapturedModels
from lookahead.hf.steps.library_steps import LibraryStepModel
from lookahead.hf.steps.step_model import TransformersStepModel
from lookahead.hf.steps.verification import Verification, VerificationMode
from lookahead.hf.support.trial import trial_step_model

CDL_ALLOWANCE = 1.10
"""The critical decoding length allows T(n) up to this many times T(1)."""
_UNMEASURED = 2
"""Rounds before the first measured one: they allocate memory and load kernels for each shape."""
_GROWTH = 20
"""The library's cache is renewed after it has grown by a twentieth of its context."""

_GENERATE = 0
"""Key of a step of `generate` among the sizes; last in a round, as a new cache disturbs the first step."""

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class StepProfile:
    """Median seconds of steps after one context.

    Attributes:
        generate_s: A step of `generate`, one token, in the library's own cache.
        step_s: A verified forward pass, by the size of the draft tree; 1 is Lookahead's plain step.
        cache_bytes: Bytes of the context's keys and values.
    """

    generate_s: float
    step_s: dict[int, float]
    cache_bytes: int


@dataclass(frozen=True)
class CriticalLength:
    """The critical decoding length.

    Attributes:
        tokens: The largest size that costs (almost) as much as one token.
        is_at_least: Whether no measured size costs more, so that the true value may be larger.
    """

    tokens: int
    is_at_least: bool


def critical_length(step_s: Mapping[int, float]) -> CriticalLength:
    """Return the largest size up to which T(n) stays within `CDL_ALLOWANCE` times T(1).

    T is interpolated linearly between the last measured size that does and the first that does not.

    Args:
        step_s: T(n) by size, with size 1.
    """
    sizes = sorted(step_s)
    allowed = CDL_ALLOWANCE * step_s[1]
    for below, above in pairwise(sizes):
        if step_s[above] > allowed:
            share = (allowed - step_s[below]) / (step_s[above] - step_s[below])
            return CriticalLength(below + int(share * (above - below)), is_at_least=False)
    return CriticalLength(sizes[-1], is_at_least=True)


def interleaved_medians(
    actions: Mapping[Name, Callable[[], object]],
    repeats: int,
    *,
    unmeasured: int = _UNMEASURED,
    before_round: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = perf_counter,
) -> dict[Name, float]:
    """Return each action's median seconds over rounds of all actions, so drift affects all alike.

    Args:
        actions: Each returns when it is done.
        repeats: Measured rounds.
        unmeasured: Rounds before them.
        before_round: Called before each round, unmeasured.
        clock: Returns the time in seconds.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in actions}
    for number in range(unmeasured + repeats):
        before_round()
        for name, action in actions.items():
            began = clock()
            action()
            if number >= unmeasured:
                seconds[name].append(clock() - began)
    return {name: statistics.median(found) for name, found in seconds.items()}


@torch.no_grad()
def profile_steps(
    model: PreTrainedModel,
    prompt: Sequence[int],
    *,
    sizes: Sequence[int],
    repeats: int,
    verification: Verification,
    clock: Callable[[], float] = perf_counter,
) -> StepProfile:
    """Time verified forward passes of draft trees, and steps of `generate`, after a prompt.

    Args:
        model: A decoder-only model.
        prompt: The context.
        sizes: Nodes of the trees; 1 is always measured.
        repeats: Rounds over all of them.
        verification: How the model's drafts are verified.
        clock: Returns the time in seconds.
    """
    layout = attention_layout(model, fresh_cache(model))
    wanted = sorted({1, *sizes})
    vocabulary: int = text_config(model).vocab_size
    branches = verification.mode is VerificationMode.TREE
    trees = {size: random_tree(size, vocabulary, branches=branches) for size in wanted}
    ours = trial_step_model(
        model, layout, prompt, max_nodes=wanted[-1], verification=verification, graphs=CapturedModels()
    )
    library = _LibrarySteps(model, prompt)
    try:
        seconds = interleaved_medians(
            {size: _forget_after(ours, tree) for size, tree in trees.items()} | {_GENERATE: library.step},
            repeats,
            before_round=library.renew,
            clock=clock,
        )
    finally:
        ours.close()
        library.close()
    return StepProfile(generate_s=seconds.pop(_GENERATE), step_s=seconds, cache_bytes=library.cache_bytes)


def random_tree(size: int, vocabulary: int, *, branches: bool = True) -> DraftTree:
    """Return a random draft tree, always the same for a size: chains with forks, or one chain."""
    random = np.random.default_rng(size)
    tokens = random.integers(0, vocabulary, size).astype(np.int32)
    if not branches:
        return DraftTree.chain(tokens, 0.9)
    parents, depths = np.full(size, -1, np.int32), np.zeros(size, np.int32)
    for node in range(1, size):
        parents[node] = node - 1 if random.random() < 0.6 else random.integers(0, node)
        depths[node] = depths[parents[node]] + 1
    return DraftTree(tokens, parents, depths, 0.9 ** depths.astype(np.float64))


def _forget_after(step_model: TransformersStepModel, tree: DraftTree) -> Callable[[], None]:
    """Return a step that verifies the tree and keeps nothing of it, so the context does not change."""

    def step() -> None:
        logits = step_model.forward({0: tree})
        _wait_for(logits[0])
        step_model.keep({0: []})

    return step


def _wait_for(logits: torch.Tensor) -> None:
    """Read a logit, which waits for the device as choosing a token does."""
    logits[-1, 0].item()


class _LibrarySteps:
    """Steps as `generate` does them; the cache grows, so it is renewed before that affects the time."""

    def __init__(self, model: PreTrainedModel, prompt: Sequence[int]) -> None:
        self._model = model
        self._prompt = list(prompt)
        self._token = DraftTree.root_only(self._prompt[-1])
        self._max_steps = max(1, len(self._prompt) // _GROWTH)
        self._done = 0
        self._step_model = self._after_prompt()
        self.cache_bytes = cache_bytes(self._step_model.returned_cache())

    def step(self) -> None:
        """Do one step."""
        _wait_for(self._step_model.forward({0: self._token})[0])
        self._done += 1

    def renew(self) -> None:
        """Make a new cache if this one has grown too much."""
        if self._done >= self._max_steps:
            self.close()
            self._step_model, self._done = self._after_prompt(), 0

    def close(self) -> None:
        """Restore the model."""
        self._step_model.close()

    def _after_prompt(self) -> LibraryStepModel:
        ids = torch.tensor([self._prompt], device=self._model.device)
        inputs: dict[str, Any] = {
            "past_key_values": fresh_cache(self._model),
            "attention_mask": None,
            "use_cache": True,
        }
        if takes_positions(self._model):
            inputs["position_ids"] = torch.arange(len(self._prompt), device=self._model.device)[None]
        made = LibraryStepModel(self._model, ids, self._model.generation_config, inputs)
        made.prefill()
        return made
