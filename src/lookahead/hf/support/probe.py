"""The probe: does a forward over a tree say what `generate`'s own steps say? Asked on first use.

An architecture that nobody here has seen should be slow, not wrong: where trees disagree, chains are tried,
and where those do as well, every step is a plain one.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from lookahead.drafting.tree import DraftTree
from lookahead.hf.compat.config import takes_cache, takes_positions, text_config
from lookahead.hf.compat.layout import AttentionLayout, attention_layout, fresh_cache
from lookahead.hf.compat.limits import unknown_settings
from lookahead.hf.compat.modifications import restore_rope_state, rope_state
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
from lookahead.hf.support.trial import trial_step_model

_NOISE_FACTOR = 3.0
"""A tree may differ from its branches by this many times what a branch differs from single steps.
In bfloat16, a mask that hides nothing of other branches made it 9.6 times and more on the embedded model."""
_RELATIVE_FLOOR = 1e-4
"""… or by this share of the logits' spread, where single steps happen to agree to the last bit."""
_ROUNDING_FACTOR = 32.0
"""A branch may differ from single steps by this many units of rounding, times the logits' spread."""
_ATTEMPTS_IN_HALF_PRECISION = 3
"""With other tokens each: there a router of experts may round to another expert, now and then."""

_PROMPT_LENGTH = 4
_PARENTS = [-1, 0, 1, 2, 0, 4]
_BRANCHES = [[0, 1, 2, 3], [0, 4, 5]]


@dataclass(frozen=True)
class ProbeResult:
    """What a model can be trusted with.

    Attributes:
        verification: how its drafts are verified.
        reason: why not as trees, in words; empty where they are.
        difference: the worst difference of a logit from those of single steps, in the mode that was chosen;
            None where there was nothing to compare.
        spread: the logits' standard deviation, to judge the difference by.
    """

    verification: Verification
    reason: str = ""
    difference: float | None = None
    spread: float | None = None

    @property
    def mode(self) -> VerificationMode:
        """What the model can be trusted with."""
        return self.verification.mode


class DisagreementError(Exception):
    """A mode's logits are not those of single steps; the message says by how much."""


def probe(
    model: PreTrainedModel,
    layout: AttentionLayout | None = None,
    *,
    tries_trees: bool = True,
    tries_compiled: bool = False,
    fixed_width: int | None = None,
) -> ProbeResult:
    """Compare a small tree, and if need be a chain, with `generate`'s own steps, in the model's own dtype.

    Takes nine small forwards, or a few times as many where trees cannot be had. Never raises, draws no random
    number, and leaves the model as it was.

    Args:
        model: a decoder-only model.
        layout: how its layers see the past; read off a fresh cache if not given.
        tries_trees: whether trees are worth trying; they are not for a batch whose rows the model does not
            tell apart where it reads positions off slots.
        tries_compiled: whether the compiled CPU decoder serves it.
        fixed_width: for reproducible text, tokens of each row in every forward pass that is not compiled:
            then only ways are tried whose logits are the same bits whatever else is in a forward pass.
    """
    layout = layout or attention_layout(model, _fresh_cache(model))
    if layout.unsupported or not takes_cache(model):
        return ProbeResult(PLAIN, layout.unsupported or "its forward takes no past_key_values")
    reasons: list[str] = []
    disagreed = False
    traits = ModelTraits.of(model)
    with torch.no_grad(), _undisturbed(model):
        ways = (
            _worth_trying(model, traits, reasons, tries_compiled=tries_compiled)
            if tries_trees
            else iter([CHAIN])
        )
        if fixed_width is not None:
            ways = _ways_of_fixed_width(traits, ways, reasons, fixed_width)
        for verification in ways:
            if verification is TREE_UNGROUPED and disagreed:
                continue  # what is laid out otherwise is the same arithmetic
            try:
                difference, spread = _tried_often(model, layout, verification)
                if fixed_width is not None:
                    check_bits(model, layout, verification)
            except Exception as problem:  # noqa: BLE001  # whatever an odd model raises, it is not trusted
                disagreed = isinstance(problem, DisagreementError)
                reasons.append(_as_reason(verification, problem))
            else:
                reason = (
                    ""
                    if verification.mode is VerificationMode.TREE
                    else "; ".join(_without_repetition(reasons))
                )
                return ProbeResult(verification, reason, difference, spread)
    return ProbeResult(PLAIN, "; ".join(_without_repetition(reasons)))


def _fresh_cache(model: PreTrainedModel) -> object:
    try:
        return fresh_cache(model)
    except Exception:  # noqa: BLE001  # the library's cache does not fit this model, whatever it says
        return None


def _worth_trying(
    model: PreTrainedModel, traits: ModelTraits, reasons: list[str], *, tries_compiled: bool
) -> Iterator[Verification]:
    """Yield the ways of verification, best first; leave out, with a reason, what the settings rule out."""
    unknown = unknown_settings(model, settled={"window_size"} if traits.bias else set())
    if not traits.takes_positions and not traits.bias:
        reasons.append("its forward takes no position_ids")
    elif unknown:
        reasons.append(f"it is not known what {', '.join(unknown)} does to a tree")
    elif not traits.takes_tree_masks and not traits.can_use_sdpa:
        reasons.append(f"its attention, {traits.attention}, takes no tree's mask")
    else:
        if tries_compiled:
            yield COMPILED
        yield TREE
        if traits.takes_tree_masks:
            yield TREE_UNGROUPED
    yield CHAIN


def _ways_of_fixed_width(
    traits: ModelTraits, ways: Iterator[Verification], reasons: list[str], fixed_width: int
) -> Iterator[Verification]:
    """Yield those ways that may be the same bit by bit, whatever is drafted; give a reason where none is."""
    for way in ways:
        if way is COMPILED:
            yield way
        elif way is TREE:
            reason = branch_order.unsupported_reason(traits)
            if reason:
                reasons.append(reason)
            else:
                yield of_fixed_width(fixed_width)


def _as_reason(verification: Verification, problem: Exception) -> str:
    if isinstance(problem, DisagreementError):
        return str(problem)
    first_line = next(iter(str(problem).splitlines()), "")
    return f"a {verification.mode} forward raised {type(problem).__name__}: {first_line}"


def _without_repetition(reasons: list[str]) -> list[str]:
    return list(dict.fromkeys(reasons))


@contextmanager
def _undisturbed(model: PreTrainedModel) -> Iterator[None]:
    """Within, whatever a forward draws or remembers is undone at the end."""
    devices = [model.device] if model.device.type == "cuda" else []
    ropes = [module for module in model.modules() if hasattr(module, "rope_type")]
    before = [rope_state(module) for module in ropes]
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            for module, state in zip(ropes, before, strict=True):
                restore_rope_state(module, state)


def _tried_often(
    model: PreTrainedModel, layout: AttentionLayout, verification: Verification
) -> tuple[float, float]:
    """Return the worst difference and the logits' spread of the first attempt that agrees.

    Raises:
        DisagreementError: none does.
    """
    is_half = torch.finfo(model.dtype).bits < 32
    for attempt in range(_ATTEMPTS_IN_HALF_PRECISION - 1 if is_half else 0):
        with suppress(DisagreementError):
            return _tried(model, layout, verification, attempt)
    return _tried(model, layout, verification, _ATTEMPTS_IN_HALF_PRECISION)


def _tried(
    model: PreTrainedModel, layout: AttentionLayout, verification: Verification, attempt: int
) -> tuple[float, float]:
    tree, prompt = _probe_tree(model, attempt)
    steps = _steps_alone(model, layout, prompt, tree.token_ids[_BRANCHES[0]].tolist())
    spread = float(steps.std())
    read = trial_step_model(model, layout, prompt, max_nodes=len(tree), verification=verification)
    with closing(read) as arena:
        chains = [_verified(arena, DraftTree.chain(tree.token_ids[branch])) for branch in _BRANCHES]
        as_tree = _verified(arena, tree) if verification.mode is VerificationMode.TREE else None
    noise = _worst(chains[0], steps)
    allowed = max(_RELATIVE_FLOOR, _ROUNDING_FACTOR * torch.finfo(model.dtype).eps) * spread
    if not noise <= allowed:
        message = (
            f"a chain's logits differ from single steps' by {noise:.3g}, more than rounding ({allowed:.3g})"
        )
        raise DisagreementError(message)
    if as_tree is None:
        return noise, spread
    error = max(_worst(as_tree[branch], chain) for branch, chain in zip(_BRANCHES, chains, strict=True))
    allowed = max(_NOISE_FACTOR * noise, _RELATIVE_FLOOR * spread)
    if not error <= allowed:
        message = f"tree logits differ from the branches' by {error:.3g}, more than rounding ({allowed:.3g})"
        raise DisagreementError(message)
    return max(noise, _worst(as_tree[_BRANCHES[0]], steps)), spread


def _probe_tree(model: PreTrainedModel, attempt: int) -> tuple[DraftTree, list[int]]:
    """Return a small tree of various tokens, and a prompt before it."""
    vocabulary: int = text_config(model).vocab_size
    depths = [0]
    for parent in _PARENTS[1:]:
        depths.append(depths[parent] + 1)
    tokens = (np.arange(len(_PARENTS)) * 7919 + 11 + 31 * attempt) % vocabulary
    prompt = (torch.arange(_PROMPT_LENGTH) * 104729 + 5 + 17 * attempt) % vocabulary
    tree = DraftTree(
        tokens.astype(np.int32),
        np.array(_PARENTS, np.int32),
        np.array(depths, np.int32),
        np.ones(len(_PARENTS)),
    )
    return tree, prompt.tolist()


def _steps_alone(
    model: PreTrainedModel, layout: AttentionLayout, prompt: list[int], tokens: list[int]
) -> Tensor:
    """Return logits [k, V] after each of some tokens, read one by one as `generate` reads them."""
    kwargs: dict[str, Any] = {
        "past_key_values": DynamicCache(config=text_config(model)),
        "attention_mask": None,
        "use_cache": True,
    }
    if takes_positions(model):
        kwargs["position_ids"] = torch.arange(len(prompt), device=model.device)[None]
    if len(kwargs["past_key_values"].layers) not in (0, len(layout.kept)):
        message = "its cache has not as many layers as `generate` makes"
        raise DisagreementError(message)
    ids = torch.tensor([prompt], device=model.device)
    step_model = LibraryStepModel(model, ids, model.generation_config, kwargs)
    step_model.prefill()
    return torch.cat([step_model.forward({0: DraftTree.root_only(token)})[0].float() for token in tokens])


def dependence_on_drafts(model: PreTrainedModel, layout: AttentionLayout, verification: Verification) -> str:
    """Return how logits depend on what is drafted, in words; empty where `check_bits` finds nothing."""
    if verification.mode is not VerificationMode.TREE:
        return (
            ""
            if verification.mode is VerificationMode.PLAIN
            else "a chain's forward has as many tokens as the chain"
        )
    with torch.no_grad(), _undisturbed(model):
        try:
            check_bits(model, layout, verification)
        except DisagreementError as found:
            return str(found)
    return ""


def check_bits(model: PreTrainedModel, layout: AttentionLayout, verification: Verification) -> None:
    """Check that a branch's logits are the same, bit by bit, in a tree, in a chain and step by step.

    The tree stands across the end of a block of keys, and its branch is not what comes first in it. Then a
    token is tried at every place of a forward.

    Raises:
        DisagreementError: says how many of the branch's tokens differ.
    """
    tree, _ = _probe_tree(model, 0)
    prompt = [int(token) for token in (np.arange(62) * 31 + 7) % text_config(model).vocab_size]
    branch = _BRANCHES[1]
    places = verification.fixed_width or len(tree)
    read = trial_step_model(model, layout, prompt, max_nodes=places, verification=verification)
    with closing(read) as arena:
        in_tree = _verified(arena, tree)[branch]
        in_chain = _verified(arena, DraftTree.chain(tree.token_ids[branch]))
        everywhere = _verified(arena, _brush(tree.token_ids[branch[:2]], places))[1:]
        alone = []
        for token in tree.token_ids[branch]:
            alone.append(arena.forward({0: DraftTree.root_only(int(token))})[0].float())
            arena.keep({0: [0]})
    differing = int(((in_tree != in_chain) | (in_tree != torch.cat(alone))).any(-1).sum())
    if differing:
        message = (
            f"{differing} of {len(branch)} tokens' logits depend, in their last bits, on what is drafted"
        )
        raise DisagreementError(message)
    differing = int((everywhere != alone[1]).any(-1).sum())
    if differing:
        message = (
            f"a token's logits depend, in their last bits, on its place in a forward, at {differing} places"
        )
        raise DisagreementError(message)


def _brush(tokens: Any, size: int) -> DraftTree:
    """Return a tree of so many nodes: under the first token the second, again and again."""
    return DraftTree(
        np.array([tokens[0]] + [tokens[1]] * (size - 1), np.int32),
        np.array([-1] + [0] * (size - 1), np.int32),
        np.array([0] + [1] * (size - 1), np.int32),
        np.ones(size),
    )


def _verified(step_model: TransformersStepModel, tree: DraftTree) -> Tensor:
    logits = step_model.forward({0: tree})[0].float()
    step_model.keep({0: []})
    return logits


def _worst(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())
