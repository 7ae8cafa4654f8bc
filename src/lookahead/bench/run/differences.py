"""Where an answer first differs from the reference, and whether rounding explains it.

A forward pass over n tokens rounds differently from n passes over one. If two tokens are almost equally
probable, that can decide between them; any other difference is an error. So the model computes once more,
unmeasured, by how much the reference's token led at the first difference.
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
"""Largest lead of a near tie, in rounding steps of the logits.

In 16 bits the last rounding outweighs all earlier ones; in float32 and float64 the sums of the whole model
add up to more than the last one.
"""


class Verdict(StrEnum):
    """The kind of a difference."""

    NEAR_TIE = "near tie"
    """The model found the two tokens almost equally probable."""
    ERROR = "error"
    """The model clearly preferred the reference's token; rounding does not explain the difference."""
    UNJUDGED = "unjudged"
    """Sampled, or in a batch: a margin would prove nothing."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first difference of an answer from the reference.

    Attributes:
        position: Index of the token in the answer, from 0.
        verdict: The kind of the difference.
        margin_at_difference: The largest logit minus the logit of the token taken instead; None if unjudged.
        rounding_step: Distance between neighbouring numbers of the logits' size in the model's dtype.
    """

    position: int
    verdict: Verdict
    margin_at_difference: float | None = None
    rounding_step: float | None = None


def first_difference(reference: Sequence[int], answer: Sequence[int]) -> int | None:
    """Return the first index where two answers differ, or where one ends; None if they are equal."""
    if tuple(reference) == tuple(answer):
        return None
    shorter = min(len(reference), len(answer))
    differing = (index for index in range(shorter) if reference[index] != answer[index])
    return next(differing, shorter)


def judge_difference(
    model: PreTrainedModel, prompt_ids: torch.Tensor, reference: Sequence[int], answer: Sequence[int]
) -> Difference | None:
    """Return where a greedy answer first differs from the reference, and why; None if it does not.

    Args:
        model: The model.
        prompt_ids: int64 [1, L], the prompt.
        reference: The answer of `generate`.
        answer: The answer of a method.
    """
    position = first_difference(reference, answer)
    if position is None:
        return None
    if position >= len(answer) or position >= len(reference):  # one answer ends, the other continues
        return Difference(position=position, verdict=Verdict.ERROR)
    common = torch.tensor([list(reference[:position])], dtype=prompt_ids.dtype, device=prompt_ids.device)
    together = torch.cat([prompt_ids, common], dim=1)
    logits = _next_logits(model, together)
    largest = float(logits.max())
    margin = largest - float(logits[answer[position]])
    # The largest may be near zero by chance, but its summands were as large as those of the others.
    step = rounding_step(max(abs(largest), float(logits.abs().median())), model.dtype)
    few = _FEW_STEPS if model.dtype.itemsize == _BYTES_OF_16_BITS else _FEW_STEPS_OF_FLOAT32
    verdict = Verdict.NEAR_TIE if margin <= few * step else Verdict.ERROR
    return Difference(position=position, verdict=verdict, margin_at_difference=margin, rounding_step=step)


def _next_logits(model: PreTrainedModel, token_ids: torch.Tensor) -> torch.Tensor:
    """Return the logits of the next token, float64 [V], from a prefill as `generate` does it."""
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
    """Return the distance between neighbouring numbers of that size in a dtype."""
    return float(torch.finfo(dtype).eps * 2.0 ** math.floor(math.log2(max(abs(size), 1e-9))))
