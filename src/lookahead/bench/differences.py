"""Where an answer leaves the reference, and whether rounding explains it.

A forward of n tokens rounds differently from n forwards of one. Where two tokens are almost equally likely,
that decides which one is taken; anywhere else a difference is an error. So the model is asked once,
unmeasured: by how much did the reference's token lead, where the answers part?
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from transformers import PreTrainedModel

_FEW_STEPS = 4
"""A lead of more than so many rounding steps of the largest logit is no near tie."""


class Verdict(StrEnum):
    """What a difference is."""

    NEAR_TIE = "near tie"
    """The two tokens were as good as equally likely to the model."""
    ERROR = "error"
    """The model preferred the reference's token clearly: rounding does not explain it."""
    UNJUDGED = "unjudged"
    """Sampled, or in a batch: no margin says what may happen."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first place where an answer differs from the reference.

    Attributes:
        position: the token's place in the answer, counted from 0.
        verdict: what it is.
        margin_at_difference: the largest logit less the logit of the token taken instead; None where that was
            not asked.
        rounding_step: how far apart numbers of that size are in the model's dtype.
    """

    position: int
    verdict: Verdict
    margin_at_difference: float | None = None
    rounding_step: float | None = None


def first_difference(reference: Sequence[int], answer: Sequence[int]) -> int | None:
    """Return the first place where two answers differ, the shorter one's end included; None where none."""
    if tuple(reference) == tuple(answer):
        return None
    shorter = min(len(reference), len(answer))
    differing = (place for place in range(shorter) if reference[place] != answer[place])
    return next(differing, shorter)


@torch.inference_mode()
def judge_difference(
    model: PreTrainedModel, prompt_ids: torch.Tensor, reference: Sequence[int], answer: Sequence[int]
) -> Difference | None:
    """Return where a greedy answer leaves the reference and what that is; None where it does not.

    Args:
        model: the model.
        prompt_ids: int64 [1, L], the prompt.
        reference: what `generate` answered.
        answer: what a method answered.
    """
    position = first_difference(reference, answer)
    if position is None:
        return None
    if position >= len(answer) or position >= len(reference):  # one ends where the other goes on
        return Difference(position=position, verdict=Verdict.ERROR)
    common = torch.tensor([list(reference[:position])], dtype=prompt_ids.dtype, device=prompt_ids.device)
    together = torch.cat([prompt_ids, common], dim=1)
    logits = model(input_ids=together, use_cache=False).logits[0, -1].double()
    largest = float(logits.max())
    margin = largest - float(logits[answer[position]])
    step = rounding_step(largest, model.dtype)
    verdict = Verdict.NEAR_TIE if margin <= _FEW_STEPS * step else Verdict.ERROR
    return Difference(position=position, verdict=verdict, margin_at_difference=margin, rounding_step=step)


def rounding_step(size: float, dtype: torch.dtype) -> float:
    """Return how far apart numbers of that size are in a dtype."""
    return float(torch.finfo(dtype).eps * 2.0 ** math.floor(math.log2(max(abs(size), 1e-9))))
