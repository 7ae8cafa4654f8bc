"""The prompts of a call as rows of tokens, if nothing but tokens, padding and usual positions was given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lookahead.hf.compat.layout import CACHE_NAMES

_OF_TEXT = frozenset({"attention_mask", "position_ids", "use_cache", "logits_to_keep", *CACHE_NAMES})
"""Inputs of a call whose prompts are text."""


@dataclass(frozen=True)
class Prompt:
    """What a row has to read.

    Attributes:
        tokens: At least one, without padding.
        padding: Slots of padding before the row's first token.
    """

    tokens: Sequence[int]
    padding: int


def text_prompts(input_ids: Tensor, model_kwargs: Mapping[str, Any], held: int) -> list[Prompt] | None:
    """Return what each row has to read; None if it is more than text that is padded on the left.

    Args:
        input_ids: int64 [B, L], the prompts; after a cache that holds tokens, all tokens or only the new ones.
        model_kwargs: As `generate` prepared them.
        held: Slots that the cache holds of each row.
    """
    given = {name for name, value in model_kwargs.items() if value is not None}
    mask: Tensor | None = model_kwargs.get("attention_mask")
    if not given <= _OF_TEXT or (mask is None and held > 0):
        return None
    slots = input_ids.shape[1] if mask is None else mask.shape[-1]
    tokens = input_ids[:, held:] if slots == input_ids.shape[1] else input_ids
    if tokens.shape[1] == 0 or slots != held + tokens.shape[1]:
        return None
    paddings = [0] * len(tokens) if mask is None else _left_paddings(mask, len(tokens))
    if paddings is None or any(held and padding > held for padding in paddings):
        return None
    if not _are_usual(model_kwargs.get("position_ids"), paddings, held, tokens.shape[1]):
        return None
    return [
        Prompt(row[max(0, padding - held) :].tolist(), padding)
        for row, padding in zip(tokens, paddings, strict=True)
    ]


def _left_paddings(mask: Tensor, rows: int) -> list[int] | None:
    """Return each row's padding; None if any is not on the left, or if a row has no token."""
    if mask.ndim != 2 or len(mask) != rows:
        return None
    sees = mask.bool()
    paddings = (~sees).sum(dim=1)
    places = torch.arange(mask.shape[1], device=mask.device)
    if not torch.equal(sees, places >= paddings[:, None]) or bool((paddings == mask.shape[1]).any()):
        return None
    counted: list[int] = paddings.tolist()
    return counted


def _are_usual(positions: Tensor | None, paddings: Sequence[int], held: int, new: int) -> bool:
    """Return whether the new tokens' positions count each row's tokens from 0."""
    if positions is None:
        return not any(paddings)
    if positions.ndim != 2 or positions.shape[1] < new or len(positions) not in (1, len(paddings)):
        return False
    places = torch.arange(held, held + new, device=positions.device)
    expected = places - torch.tensor(paddings, device=positions.device)[:, None]
    given = positions[:, -new:].expand_as(expected)
    return bool(((given == expected) | (expected < 0)).all())
