"""How long a verified forward takes by its size, beside a step of `generate`, in one interleaved run."""

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
"""A forward counts as costing what one token costs up to this many times T(1)."""
_UNMEASURED = 2
"""Rounds before the first measured one: memory and kernels that a shape needs are got then."""
_GROWTH = 20
"""The library's cache may grow by one in so many of its context's tokens before a fresh one is made."""

_GENERATE = 0
"""Stands for a step of `generate` among the sizes; last in a round, as a fresh cache disturbs the first."""

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class StepProfile:
    """What steps behind one context took, in seconds, medians.

    Attributes:
        generate_s: a step of `generate`, one token, in the library's own cache.
        step_s: by the size of the draft tree, a verified forward; 1 is Lookahead's plain step.
        cache_bytes: keys and values of the context.
    """

    generate_s: float
    step_s: dict[int, float]
    cache_bytes: int


@dataclass(frozen=True)
class CriticalLength:
    """The critical decoding length.

    Attributes:
        tokens: the largest size that costs (almost) what one token costs.
        is_at_least: no measured size costs more, so that it may be larger.
    """

    tokens: int
    is_at_least: bool


def critical_length(step_s: Mapping[int, float]) -> CriticalLength:
    """Return the largest size up to which T(n) stays within `CDL_ALLOWANCE` times T(1).

    Between the last measured size that does and the first that does not, T is taken for a straight line.

    Args:
        step_s: T(n) by size, 1 among them.
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
    """Return each action's median seconds, of rounds over all of them: what drifts touches all alike.

    Args:
        actions: each returns when it is done.
        repeats: measured rounds.
        unmeasured: rounds before them.
        before_round: called before each round, unmeasured.
        clock: seconds, from anywhere.
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
    """Time verified forwards of draft trees, and `generate`'s own steps, behind a prompt.

    Args:
        model: a decoder-only model.
        prompt: the context.
        sizes: nodes of the trees; 1 is measured whether it is among them or not.
        repeats: rounds over all of them.
        verification: how the model's drafts are verified.
        clock: seconds, from anywhere.
    """
    layout = attention_layout(model, fresh_cache(model))
    wanted = sorted({1, *sizes})
    vocabulary: int = text_config(model).vocab_size
    branches = verification.mode is VerificationMode.TREE
    trees = {size: random_tree(size, vocabulary, branches=branches) for size in wanted}
    ours = trial_step_model(
        model,
        layout,
        prompt,
        max_nodes=wanted[-1],
        verification=verification,
        graphs=CapturedModels(),
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
    """Return a draft tree of so many random nodes, every time the same: chains with forks, or one chain."""
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
    """Return a step that verifies the tree and keeps nothing of it, so that the context stays as it is."""

    def step() -> None:
        logits = step_model.forward({0: tree})
        _wait_for(logits[0])
        step_model.keep({0: []})

    return step


def _wait_for(logits: torch.Tensor) -> None:
    """Read a logit, as choosing a token does, which waits for the device."""
    logits[-1, 0].item()


class _LibrarySteps:
    """Steps as `generate` does them; its cache grows, so a fresh one is made before that shows."""

    def __init__(self, model: PreTrainedModel, prompt: Sequence[int]) -> None:
        self._model = model
        self._prompt = list(prompt)
        self._token = DraftTree.root_only(self._prompt[-1])
        self._most = max(1, len(self._prompt) // _GROWTH)
        self._done = 0
        self._step_model = self._prefilled()
        self.cache_bytes = cache_bytes(self._step_model.returned_cache())

    def step(self) -> None:
        """Do one step."""
        _wait_for(self._step_model.forward({0: self._token})[0])
        self._done += 1

    def renew(self) -> None:
        """Make a fresh cache where this one has grown by too much."""
        if self._done >= self._most:
            self.close()
            self._step_model, self._done = self._prefilled(), 0

    def close(self) -> None:
        """Leave the model as it was."""
        self._step_model.close()

    def _prefilled(self) -> LibraryStepModel:
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
