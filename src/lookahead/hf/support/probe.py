"""The probe: compares a tree's logits with those of `generate`'s own steps, at a model's first use.

An unknown architecture should be slow, not wrong: if trees disagree, chains are tried; if chains disagree,
too, every step is plain.
"""

from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from lookahead.drafting.tree import DraftTree
from lookahead.errors import first_line
from lookahead.hf.compat.changes import TemporaryChanges
from lookahead.hf.compat.config import takes_cache, takes_positions, text_config
from lookahead.hf.compat.fingerprint.places import replaced_code
from lookahead.hf.compat.layout import AttentionLayout, attention_layout, fresh_cache, misplaced_layers
from lookahead.hf.compat.limits import unknown_settings
from lookahead.hf.compat.traits import ModelTraits
from lookahead.hf.steps import branch_order
from lookahead.hf.steps.library_steps import LibraryStepModel
from lookahead.hf.steps.step_model import TransformersStepModel
from lookahead.hf.steps.verification import (
    CHAIN,
    COMPILED,
    PLAIN,
    TREE,
    TREE_UNGROUPED,
    Verification,
    VerificationMode,
    of_fixed_width,
)
from lookahead.hf.support.trial import restore_later, trial_step_model

_NOISE_FACTOR = 3.0
"""A tree may differ from its branches by this factor times the difference of a branch from single steps.
In bfloat16, a mask that did not hide other branches gave factors of at least 9.6 on the embedded model."""
_RELATIVE_FLOOR = 1e-4
"""… or by this share of the logits' spread, if a branch happens to equal single steps to the last bit."""
_CHAIN_FLOOR = 2e-4
"""A branch may differ from single steps by this share of the logits' spread. In a model of many recurrent
cycles (hrm_text), rounding makes up to 1.2e-4 on some processors."""
_ROUNDING_FACTOR = 32.0
"""A branch may differ from single steps by this many units of rounding, times the logits' spread."""
_ATTEMPTS_IN_HALF_PRECISION = 3
"""Each with other tokens: in half precision, a router sometimes rounds to another expert."""

_PROMPT_LENGTH = 4
_PARENTS = [-1, 0, 1, 2, 0, 4]
_BRANCHES = [[0, 1, 2, 3], [0, 4, 5]]


@dataclass(frozen=True)
class ProbeResult:
    """How a model's drafts can be verified.

    Attributes:
        verification: How its drafts are verified.
        reason: Why they are not verified as trees, in words; empty if they are.
        difference: Largest logit difference from single steps, in the chosen mode; None if not measured.
        spread: The logits' standard deviation, to judge the difference by.
    """

    verification: Verification
    reason: str = ""
    difference: float | None = None
    spread: float | None = None

    @property
    def mode(self) -> VerificationMode:
        """Trees, chains or plain steps."""
        return self.verification.mode


class DisagreementError(Exception):
    """A mode's logits differ from those of single steps; the message says by how much."""


def probe(
    model: PreTrainedModel,
    layout: AttentionLayout | None = None,
    *,
    tries_trees: bool = True,
    tries_compiled: bool = False,
    fixed_width: int | None = None,
) -> ProbeResult:
    """Compare a small tree and, if need be, a chain with `generate`'s own steps, in the model's own dtype.

    This takes nine small forward passes, or a few times as many if trees disagree. It never raises, draws no
    random numbers and leaves the model as it was.

    Args:
        model: A decoder-only model.
        layout: How its layers see the past; read from a fresh cache if None.
        tries_trees: Whether to try trees; not for batches of a model that derives positions from slots.
        tries_compiled: Whether to try the compiled CPU decoder.
        fixed_width: For reproducible text: tokens of each row in every forward pass of the model's own code.
            Only verifications whose logits have the same bits in any forward pass are then tried.
    """
    layout = layout or attention_layout(model, _fresh_cache(model))
    if layout.unsupported or not takes_cache(model):
        return ProbeResult(PLAIN, layout.unsupported or "its forward method takes no past_key_values")
    reason = replaced_code(model) or misplaced_layers(model)
    if reason:
        return ProbeResult(PLAIN, reason)
    reasons: list[str] = []
    disagreed = False
    traits = ModelTraits.of(model)
    changes = TemporaryChanges()
    with torch.no_grad(), changes, changes:
        restore_later(model, changes)
        candidates = (
            _candidates(model, traits, reasons, tries_compiled=tries_compiled)
            if tries_trees
            else iter([CHAIN])
        )
        if fixed_width is not None:
            candidates = _fixed_width_candidates(traits, candidates, reasons, fixed_width)
        for verification in candidates:
            if verification is TREE_UNGROUPED and disagreed:
                continue  # another layout of the same arithmetic disagrees as well
            try:
                difference, spread = _compare_repeatedly(model, layout, verification)
                if fixed_width is not None:
                    check_bits(model, layout, verification)
            except Exception as problem:  # noqa: BLE001  # a model's code may raise anything
                disagreed = isinstance(problem, DisagreementError)
                reasons.append(_as_reason(verification, problem))
            else:
                reason = "" if verification.mode is VerificationMode.TREE else _joined(reasons)
                return ProbeResult(verification, reason, difference, spread)
    return ProbeResult(PLAIN, _joined(reasons))


def _fresh_cache(model: PreTrainedModel) -> object:
    try:
        return fresh_cache(model)
    except Exception:  # noqa: BLE001  # transformers' cache does not fit this model; it may raise anything
        return None


def _candidates(
    model: PreTrainedModel, traits: ModelTraits, reasons: list[str], *, tries_compiled: bool
) -> Iterator[Verification]:
    """Yield the verifications to try, best first; append a reason for those that the settings rule out."""
    unknown = unknown_settings(model, settled={"window_size"} if traits.bias else set())
    if not traits.takes_positions and not traits.bias:
        reasons.append("its forward method takes no position_ids")
    elif unknown:
        reasons.append(f"it is not known how {', '.join(unknown)} affects a tree")
    elif not traits.takes_tree_masks and not traits.can_use_sdpa:
        reasons.append(f"its attention, {traits.attention}, takes no tree mask")
    else:
        if tries_compiled:
            yield COMPILED
        yield TREE
        if traits.takes_tree_masks:
            yield TREE_UNGROUPED
    yield CHAIN


def _fixed_width_candidates(
    traits: ModelTraits, candidates: Iterator[Verification], reasons: list[str], fixed_width: int
) -> Iterator[Verification]:
    """Yield the candidates whose bits may be independent of drafts; append a reason if trees cannot be."""
    for candidate in candidates:
        if candidate is COMPILED:
            yield candidate
        elif candidate is TREE:
            reason = branch_order.unsupported_reason(traits)
            if reason:
                reasons.append(reason)
            else:
                yield of_fixed_width(fixed_width)


def _as_reason(verification: Verification, problem: Exception) -> str:
    if isinstance(problem, DisagreementError):
        return str(problem)
    return f"a {verification.mode} forward pass raised {type(problem).__name__}: {first_line(problem)}"


def _joined(reasons: list[str]) -> str:
    return "; ".join(dict.fromkeys(reasons))


def _compare_repeatedly(
    model: PreTrainedModel, layout: AttentionLayout, verification: Verification
) -> tuple[float, float]:
    """Return the largest difference and the logits' spread of the first attempt that agrees.

    Raises:
        DisagreementError: No attempt agrees.
    """
    is_half = torch.finfo(model.dtype).bits < 32
    for attempt in range(_ATTEMPTS_IN_HALF_PRECISION - 1 if is_half else 0):
        with suppress(DisagreementError):
            return _compare(model, layout, verification, attempt)
    return _compare(model, layout, verification, _ATTEMPTS_IN_HALF_PRECISION)


def _compare(
    model: PreTrainedModel, layout: AttentionLayout, verification: Verification, attempt: int
) -> tuple[float, float]:
    tree, prompt = _probe_tree(model, attempt)
    steps = _single_steps(model, layout, prompt, tree.token_ids[_BRANCHES[0]].tolist())
    spread = float(steps.std())
    trial = trial_step_model(model, layout, prompt, max_nodes=len(tree), verification=verification)
    with closing(trial) as step_model:
        chains = [_logits_of(step_model, DraftTree.chain(tree.token_ids[branch])) for branch in _BRANCHES]
        as_tree = _logits_of(step_model, tree) if verification.mode is VerificationMode.TREE else None
    noise = _max_difference(chains[0], steps)
    allowed = max(_CHAIN_FLOOR, _ROUNDING_FACTOR * torch.finfo(model.dtype).eps) * spread
    if not noise <= allowed:
        message = (
            f"a chain's logits differ from single steps' by {noise:.3g}, more than rounding ({allowed:.3g})"
        )
        raise DisagreementError(message)
    if as_tree is None:
        return noise, spread
    pairs = zip(_BRANCHES, chains, strict=True)
    error = max(_max_difference(as_tree[branch], chain) for branch, chain in pairs)
    allowed = max(_NOISE_FACTOR * noise, _RELATIVE_FLOOR * spread)
    if not error <= allowed:
        message = f"tree logits differ from the branches' by {error:.3g}, more than rounding ({allowed:.3g})"
        raise DisagreementError(message)
    return max(noise, _max_difference(as_tree[_BRANCHES[0]], steps)), spread


def _probe_tree(model: PreTrainedModel, attempt: int) -> tuple[DraftTree, list[int]]:
    """Return a small tree of different tokens, and a prompt before it."""
    vocabulary: int = text_config(model).vocab_size
    depths = [0]
    for parent in _PARENTS[1:]:
        depths.append(depths[parent] + 1)
    tokens = (np.arange(len(_PARENTS)) * 7919 + 11 + 31 * attempt) % vocabulary
    prompt = (torch.arange(_PROMPT_LENGTH, device="cpu") * 104729 + 5 + 17 * attempt) % vocabulary
    tree = DraftTree(
        tokens.astype(np.int32),
        np.array(_PARENTS, np.int32),
        np.array(depths, np.int32),
        np.ones(len(_PARENTS)),
    )
    return tree, prompt.tolist()


def _single_steps(
    model: PreTrainedModel, layout: AttentionLayout, prompt: list[int], tokens: list[int]
) -> Tensor:
    """Return logits [k, V] after each of k tokens, read one by one as `generate` reads them."""
    kwargs: dict[str, Any] = {
        "past_key_values": DynamicCache(config=text_config(model)),
        "attention_mask": None,
        "use_cache": True,
    }
    if takes_positions(model):
        kwargs["position_ids"] = torch.arange(len(prompt), device=model.device)[None]
    if len(kwargs["past_key_values"].layers) not in (0, len(layout.kept)):
        message = "its cache does not have as many layers as `generate` creates"
        raise DisagreementError(message)
    ids = torch.tensor([prompt], device=model.device)
    step_model = LibraryStepModel(model, ids, model.generation_config, kwargs)
    step_model.prefill()
    return torch.cat([step_model.forward({0: DraftTree.root_only(token)})[0].float() for token in tokens])


def dependence_on_drafts(model: PreTrainedModel, layout: AttentionLayout, verification: Verification) -> str:
    """Return how logits depend on drafts, in words; empty if `check_bits` finds no dependence."""
    if verification.mode is VerificationMode.PLAIN:
        return ""
    if verification.mode is VerificationMode.CHAIN:
        return "a chain's forward pass has as many tokens as the chain"
    changes = TemporaryChanges()
    with torch.no_grad(), changes, changes:
        restore_later(model, changes)
        try:
            check_bits(model, layout, verification)
        except DisagreementError as found:
            return str(found)
    return ""


def check_bits(model: PreTrainedModel, layout: AttentionLayout, verification: Verification) -> None:
    """Check that a branch's logits are the same, bit by bit, in a tree, in a chain and in single steps.

    The tree crosses the end of a block of keys, and the branch is not its first. Then a token is checked at
    every index of a forward pass.

    Raises:
        DisagreementError: Bits differ; the message says for how many tokens.
    """
    tree, _ = _probe_tree(model, 0)
    prompt = [int(token) for token in (np.arange(62) * 31 + 7) % text_config(model).vocab_size]
    branch = _BRANCHES[1]
    width = verification.fixed_width or len(tree)
    trial = trial_step_model(model, layout, prompt, max_nodes=width, verification=verification)
    with closing(trial) as step_model:
        in_tree = _logits_of(step_model, tree)[branch]
        in_chain = _logits_of(step_model, DraftTree.chain(tree.token_ids[branch]))
        everywhere = _logits_of(step_model, _equal_children(tree.token_ids[branch[:2]], width))[1:]
        alone = []
        for token in tree.token_ids[branch]:
            alone.append(step_model.forward({0: DraftTree.root_only(int(token))})[0].float())
            step_model.keep({0: [0]})
    differing = int(((in_tree != in_chain) | (in_tree != torch.cat(alone))).any(-1).sum())
    if differing:
        message = f"the last bits of {differing} of {len(branch)} tokens' logits depend on what is drafted"
        raise DisagreementError(message)
    differing = int((everywhere != alone[1]).any(-1).sum())
    if differing:
        message = (
            f"the last bits of a token's logits depend on its index in a forward pass, at {differing} indices"
        )
        raise DisagreementError(message)


def _equal_children(tokens: Any, size: int) -> DraftTree:
    """Return a tree of `size` nodes: the first token, and the second as each of its children."""
    return DraftTree(
        np.array([tokens[0]] + [tokens[1]] * (size - 1), np.int32),
        np.array([-1] + [0] * (size - 1), np.int32),
        np.array([0] + [1] * (size - 1), np.int32),
        np.ones(size),
    )


def _logits_of(step_model: TransformersStepModel, tree: DraftTree) -> Tensor:
    logits = step_model.forward({0: tree})[0].float()
    step_model.keep({0: []})
    return logits


def _max_difference(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())
