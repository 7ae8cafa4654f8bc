"""The probe: does a forward over a tree say what forwards over its branches say? Asked on first use.

An architecture that nobody here has seen should be slow, not wrong.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from lookahead.drafting.tree import DraftTree
from lookahead.hf.compat import AttentionLayout, rope_depends_on_length, takes_positions, text_config
from lookahead.hf.step_model import prefilled

_NOISE_FACTOR = 8.0
"""A tree may differ from its branches by this many times what a branch differs from single steps."""
_RELATIVE_FLOOR = 1e-4
"""… or by this share of the logits' spread, where single steps happen to agree to the last bit."""
_ROUNDING_FACTOR = 32.0
"""A branch may differ from single steps by this many units of rounding, times the logits' spread."""

_PROMPT_LENGTH = 4
_PARENTS = [-1, 0, 1, 2, 0, 4]
_BRANCHES = [[0, 1, 2, 3], [0, 4, 5]]


@dataclass(frozen=True)
class ProbeResult:
    """What a model can be trusted with.

    Attributes:
        branches: whether drafts may be trees; otherwise every step is a plain one.
        reason: why not, in words; empty where they may.
    """

    branches: bool
    reason: str = ""


def probe(model: PreTrainedModel, layout: AttentionLayout) -> ProbeResult:
    """Compare a small tree forward with its branches' forwards, in the model's own dtype.

    Takes seven small forwards. A model that raises, or whose answers differ by more than rounding, is not
    trusted with trees; neither is one that reads off the largest position what it should not.
    """
    if not takes_positions(model):
        return ProbeResult(branches=False, reason="its forward takes no position_ids")
    if rope_depends_on_length(model):
        return ProbeResult(branches=False, reason="its rotary frequencies depend on the length of a forward")
    tree = _probe_tree(model)
    try:
        with torch.no_grad():
            error, noise, spread = _differences(model, layout, tree)
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError) as problem:
        return ProbeResult(
            branches=False, reason=f"a tree forward raised {type(problem).__name__}: {problem}"
        )
    allowed = max(_RELATIVE_FLOOR, _ROUNDING_FACTOR * torch.finfo(model.dtype).eps) * spread
    if not noise <= allowed:
        reason = (
            f"a chain's logits differ from single steps' by {noise:.3g}, more than rounding ({allowed:.3g})"
        )
        return ProbeResult(branches=False, reason=reason)
    allowed = max(_NOISE_FACTOR * noise, _RELATIVE_FLOOR * spread)
    if not error <= allowed:
        reason = f"tree logits differ from the branches' by {error:.3g}, more than rounding ({allowed:.3g})"
        return ProbeResult(branches=False, reason=reason)
    return ProbeResult(branches=True)


def _probe_tree(model: PreTrainedModel) -> DraftTree:
    vocabulary: int = text_config(model).vocab_size
    depths = [0]
    for parent in _PARENTS[1:]:
        depths.append(depths[parent] + 1)
    tokens = (np.arange(len(_PARENTS)) * 7919 + 11) % vocabulary
    return DraftTree(
        tokens.astype(np.int32),
        np.array(_PARENTS, np.int32),
        np.array(depths, np.int32),
        np.ones(len(_PARENTS)),
    )


def _differences(
    model: PreTrainedModel, layout: AttentionLayout, tree: DraftTree
) -> tuple[float, float, float]:
    """Return the worst tree-to-branch difference, the worst branch-to-steps one, and the logits' spread."""
    vocabulary: int = text_config(model).vocab_size
    prompt = (torch.arange(_PROMPT_LENGTH) * 104729 + 5) % vocabulary
    step_model = prefilled(model, layout, prompt.tolist(), decoding_length=len(tree))
    as_tree = step_model.forward({0: tree})[0].float()
    step_model.keep({0: []})
    chains = []
    for branch in _BRANCHES:
        chains.append(step_model.forward({0: DraftTree.chain(tree.token_ids[branch])})[0].float())
        step_model.keep({0: []})
    error = max(_worst(as_tree[branch], chain) for branch, chain in zip(_BRANCHES, chains, strict=True))
    steps = []
    for node in _BRANCHES[0]:
        steps.append(step_model.forward({0: DraftTree.root_only(int(tree.token_ids[node]))})[0][0].float())
        step_model.keep({0: [0]})
    noise = _worst(chains[0], torch.stack(steps))
    return error, noise, float(as_tree.std())


def _worst(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())
