"""What a model is given in the steps after its prompt, beside tokens, cache and mask.

Pictures and sounds are for the prompt: the library gives them to the prefill alone. What is left is read off
the library's own functions, which are asked once, before the prompt is read, what they would give the first
step: the positions (Qwen2-VL has several axes of them, PaliGemma counts from one) and the types of tokens. An
input that nobody here understands has the whole call decoded in plain steps: slow, not wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lookahead.hf.cache.arena_cache import ArenaCache
from lookahead.hf.compat.config import is_the_librarys, looks_across
from lookahead.hf.compat.generation import INPUTS_ABOUT_IMAGES, TOKEN_TYPE_NAMES, inputs_of_first_step
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
"""Inputs that are served whatever the model."""


@dataclass(frozen=True)
class StepInputs:
    """The inputs of every step after the prefill.

    Attributes:
        shift: int64 [B] or [axes, B], how far the model's positions are ahead of each row's count of tokens;
            None where the two are the same.
        types: by input, each row's type of any new token, [B, 1].
        unserved: inputs that the steps need and nobody here understands; nothing else here is then of use.
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
        """Return the inputs of a call's steps; where the model's own code raises, they are not understood.

        Args:
            model: a decoder-only model, whose cache an arena can take the place of.
            input_ids: int64 [B, L], the prompts.
            model_kwargs: as `generate` prepared them; they stay as they are.
            layout: how the model's layers see the past.
        """
        extras = tuple(_beyond_the_usual(model_kwargs))
        if not is_the_librarys(model) or rope_switches_at(model) is not None or looks_across(model):
            # Code of its own, a cache that starts anew or that holds more than text: the first step's inputs
            # say little of what the others see.
            return cls(unserved=extras)
        stand_in = _StandIn(layout.kept, _prompt_slots(input_ids, model_kwargs))
        try:
            given = inputs_of_first_step(model, input_ids, {**model_kwargs, "past_key_values": stand_in})
        except Exception as problem:  # noqa: BLE001  # an odd model's code, which may want the prefill's outputs
            return cls(unserved=extras or (f"what its prefill yields ({type(problem).__name__})",))
        positions: Tensor | None = given.get("position_ids")
        unserved = [name for name in _beyond_the_usual(given) if not _is_served(name, given[name], positions)]
        if positions is None and model_kwargs.get("position_ids") is not None:
            unserved.append("positions of its own making")
        if unserved:
            return cls(unserved=tuple(unserved))
        types = {name: given[name][:, -1:] for name in TOKEN_TYPE_NAMES if given.get(name) is not None}
        if positions is None:
            return cls(types=types)
        shift = positions[..., -1].cpu() - first_positions(
            len(input_ids), stand_in.get_seq_length(), model_kwargs
        )
        return cls(shift if shift.ndim > 1 or shift.any() else None, types)

    def of_row(self, row: int) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Return a row's shift, int64 [] or [axes], or None; and by input the type [1, 1] of its tokens."""
        types = {name: of_rows[row : row + 1] for name, of_rows in self.types.items()}
        return (None if self.shift is None else self.shift[..., row]), types


def first_positions(rows: int, slots: int, model_kwargs: Mapping[str, Any]) -> Tensor:
    """Return int64 [B], each row's position of the first new token as text is counted, without padding.

    Args:
        rows: B.
        slots: how many slots of the cache the prompts take, padding included.
        model_kwargs: as `generate` prepared them.
    """
    positions: Tensor | None = model_kwargs.get("position_ids")
    mask: Tensor | None = model_kwargs.get("attention_mask")
    if positions is not None and positions.ndim == 2:
        return positions[:, -1].expand(rows).cpu() + 1
    if positions is not None and mask is not None:
        return mask.long().sum(-1).cpu()
    # Nothing is padded, or the model counts slots.
    return torch.full((rows,), slots if positions is None else positions.shape[-1])


def _prompt_slots(input_ids: Tensor, model_kwargs: Mapping[str, Any]) -> int:
    """Return how many slots of the cache the prompts take."""
    positions, embeddings = model_kwargs.get("position_ids"), model_kwargs.get("inputs_embeds")
    if positions is not None:
        return int(positions.shape[-1])
    return int(input_ids.shape[1] if embeddings is None else embeddings.shape[1])


class _StandIn(ArenaCache):
    """An empty cache that says it holds the prompt, for code that asks how long it is."""

    def __init__(self, windows: Sequence[int | None], length: int) -> None:
        super().__init__(windows, capacity=1)
        self._length = length

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002  # the library's signature
        return self._length


def _beyond_the_usual(inputs: Mapping[str, Any]) -> list[str]:
    return [name for name, value in inputs.items() if value is not None and name not in _USUAL]


def _is_served(name: str, value: Any, positions: Tensor | None) -> bool:
    """Return whether it is known how to give the nodes of a tree what the first step is given."""
    if name in INPUTS_ABOUT_IMAGES:
        return True
    # 5.16 gives whole rows of types, of which models with several axes have no use: they have positions.
    has_axes = positions is not None and positions.ndim > 2
    return name in TOKEN_TYPE_NAMES and (value.shape[-1] == 1 or has_axes)
