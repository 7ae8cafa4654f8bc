"""A call's prompts, and a model's inputs in the steps after them, besides tokens, cache and mask.

Transformers passes images and audio only to the prefill. To find the other inputs, `StepInputs.of` lets
transformers prepare the first step, before the prompt is read: this gives the positions (several axes in
Qwen2-VL, counted from one in PaliGemma) and the token types. A call with an input that is not understood is
decoded in plain steps: slow, not wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lookahead.hf.cache.arena_cache import ArenaCache
from lookahead.hf.compat.config import has_cross_attention, is_library_code
from lookahead.hf.compat.generation import INPUTS_ABOUT_IMAGES, TOKEN_TYPE_NAMES, first_step_inputs
from lookahead.hf.compat.layout import CACHE_NAMES, AttentionLayout
from lookahead.hf.compat.limits import rope_switches_at

_USUAL = frozenset(
    {
        "input_ids",
        "attention_mask",
        "position_ids",
        "inputs_embeds",
        "use_cache",
        "logits_to_keep",
        *CACHE_NAMES,
    }
)
"""Inputs that are supported for every model."""


_OF_TEXT = frozenset({"attention_mask", "position_ids", "use_cache", "logits_to_keep", *CACHE_NAMES})
"""Inputs of a call whose prompts are text."""


@dataclass(frozen=True)
class StepInputs:
    """The inputs of every step after the prefill.

    Attributes:
        shift: int64 [B] or [axes, B], how far the model's positions are ahead of each row's number of tokens;
            None if the two are the same.
        types: By input name, each row's type of any new token, [B, 1].
        unserved: Inputs that the steps need and that are not understood; if there are any, do not use the
            other attributes.
    """

    shift: Tensor | None = None
    types: Mapping[str, Tensor] = field(default_factory=dict)
    unserved: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        input_ids: Tensor,
        model_kwargs: Mapping[str, Any],
        layout: AttentionLayout,
    ) -> "StepInputs":
        """Return the inputs of a call's steps; if the model's own code raises, they are not understood.

        Args:
            model: A decoder-only model whose cache an arena can replace.
            input_ids: int64 [B, L], the prompts.
            model_kwargs: As `generate` prepared them; not changed.
            layout: How the model's layers see the past.
        """
        extras = tuple(_beyond_the_usual(model_kwargs))
        if not is_library_code(model) or rope_switches_at(model) is not None or has_cross_attention(model):
            # With custom code, a cache that restarts or that holds more than text, the first step's inputs do
            # not show what later steps need.
            return cls(unserved=extras)
        stand_in = _StandIn(layout.kept, _prompt_slots(input_ids, model_kwargs))
        try:
            given = first_step_inputs(model, input_ids, {**model_kwargs, "past_key_values": stand_in})
        except Exception as problem:  # noqa: BLE001  # a model's code may need the prefill's outputs
            return cls(unserved=extras or (f"its prefill's outputs ({type(problem).__name__})",))
        positions: Tensor | None = given.get("position_ids")
        unserved = [name for name in _beyond_the_usual(given) if not _is_served(name, given[name], positions)]
        if positions is None and model_kwargs.get("position_ids") is not None:
            unserved.append("positions that it computes itself")
        if unserved:
            return cls(unserved=tuple(unserved))
        types = {name: given[name][:, -1:] for name in TOKEN_TYPE_NAMES if given.get(name) is not None}
        if positions is None:
            return cls(types=types)
        shift = positions[..., -1].cpu() - first_positions(
            len(input_ids), stand_in.get_seq_length(), model_kwargs
        )
        return cls(shift if shift.ndim > 1 or shift.any() else None, types)

    @property
    def are_of_text(self) -> bool:
        """Whether rows differ in their tokens and in positions of one axis alone."""
        return not self.types and (self.shift is None or self.shift.ndim == 1)

    def of_row(self, row: int) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Return a row's shift, int64 [] or [axes], or None; and its token type [1, 1] by input name."""
        types = {name: of_rows[row : row + 1] for name, of_rows in self.types.items()}
        return (None if self.shift is None else self.shift[..., row]), types


def first_positions(rows: int, slots: int, model_kwargs: Mapping[str, Any]) -> Tensor:
    """Return int64 [B], the position of each row's first new token, without padding.

    Args:
        rows: B.
        slots: Cache slots of the prompts, padding included.
        model_kwargs: As `generate` prepared them.
    """
    positions: Tensor | None = model_kwargs.get("position_ids")
    mask: Tensor | None = model_kwargs.get("attention_mask")
    if positions is not None and positions.ndim == 2:
        return positions[:, -1].expand(rows).cpu() + 1
    if positions is not None and mask is not None:
        return mask.long().sum(-1).cpu()
    # There is no padding, or the model counts slots.
    return torch.full((rows,), slots if positions is None else positions.shape[-1], device="cpu")


def _prompt_slots(input_ids: Tensor, model_kwargs: Mapping[str, Any]) -> int:
    """Return the number of cache slots that the prompts need."""
    positions, embeddings = model_kwargs.get("position_ids"), model_kwargs.get("inputs_embeds")
    if positions is not None:
        return int(positions.shape[-1])
    return int(input_ids.shape[1] if embeddings is None else embeddings.shape[1])


class _StandIn(ArenaCache):
    """An empty cache that reports the prompt's length, for code that reads it."""

    def __init__(self, windows: Sequence[int | None], length: int) -> None:
        super().__init__(windows, capacity=1)
        self._length = length

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002  # transformers' signature
        return self._length


def _beyond_the_usual(inputs: Mapping[str, Any]) -> list[str]:
    return [name for name, value in inputs.items() if value is not None and name not in _USUAL]


def _is_served(name: str, value: Any, positions: Tensor | None) -> bool:
    """Return whether the nodes of a tree can be given this input of the first step."""
    if name in INPUTS_ABOUT_IMAGES:
        return True
    # 5.16 passes whole rows of types; models with several axes ignore them, since they have positions.
    has_axes = positions is not None and positions.ndim > 2
    return name in TOKEN_TYPE_NAMES and (value.shape[-1] == 1 or has_axes)


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
        input_ids: int64 [B, L], the prompts; after a cache that holds tokens, all or only the new ones.
        model_kwargs: As `generate` prepared them.
        held: Slots that the cache holds of each row.
    """
    if input_ids.dtype not in (torch.int32, torch.int64) or bool((input_ids < 0).any()):
        return None  # not tokens: `generate` says what is wrong
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
