"""Where an answer leaves the reference, and whether rounding explains it.

A forward of n tokens rounds differently from n forwards of one. Where two tokens are almost equally likely,
that decides which one is taken; anywhere else a difference is an error. So the model is asked once,
unmeasured: by how much did the reference's token lead, where the answers part?
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from transformers import PreTrainedModel

_BYTES_OF_16_BITS = 2
_FEW_STEPS = 4
_FEW_STEPS_OF_FLOAT32 = 64
"""A lead of more than so many rounding steps of the logits is no near tie.

In 16 bits the last rounding outweighs all before it; in float32 and float64 what a model's many sums add up
to is more than the last one.
"""


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
        rounding_step: how far apart numbers of the logits' size are in the model's dtype.
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
    logits = _next_logits(model, together)
    largest = float(logits.max())
    margin = largest - float(logits[answer[position]])
    # The largest may lie near zero by chance, but it was summed of numbers as large as the others were.
    step = rounding_step(max(abs(largest), float(logits.abs().median())), model.dtype)
    few = _FEW_STEPS if model.dtype.itemsize == _BYTES_OF_16_BITS else _FEW_STEPS_OF_FLOAT32
    verdict = Verdict.NEAR_TIE if margin <= few * step else Verdict.ERROR
    return Difference(position=position, verdict=verdict, margin_at_difference=margin, rounding_step=step)


def _next_logits(model: PreTrainedModel, token_ids: torch.Tensor) -> torch.Tensor:
    """Return what the model says of the next token, float64 [V], as `generate` reads a prompt."""
    untyped: Any = model  # the library's mixin hides its type
    mask = torch.ones_like(token_ids)
    settings = {
        "do_sample": False,
        "max_new_tokens": 1,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    output = untyped.generate(input_ids=token_ids, attention_mask=mask, **settings)
    logits: torch.Tensor = output.logits[0][0].double()
    return logits


def rounding_step(size: float, dtype: torch.dtype) -> float:
    """Return how far apart numbers of that size are in a dtype."""
    return float(torch.finfo(dtype).eps * 2.0 ** math.floor(math.log2(max(abs(size), 1e-9))))
