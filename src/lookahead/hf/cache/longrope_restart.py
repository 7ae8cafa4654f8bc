"""Longrope models whose cache is started anew where their rotary frequencies change.

`generate` leaves it to the model's own `prepare_inputs_for_generation` to drop the cache there (Phi-3's
does, the library's general one does not). So it is asked here, too, at the same lengths and with the same
inputs, and what it says is done.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lookahead.hf.cache.arena_cache import ArenaCache
from lookahead.hf.compat.generation import forward_in_emptied_cache


class CacheRestart:
    """Follows one text's length, to do the forward in which the cache is started anew.

    Args:
        model: a decoder-only model.
        switch: the longest text with the first frequencies; None for a model that has but one set.
        input_ids: int64 [1, L], the prompt.
        model_kwargs: as `generate` prepared them.
    """

    def __init__(
        self, model: PreTrainedModel, switch: int | None, input_ids: Tensor, model_kwargs: dict[str, Any]
    ) -> None:
        self._model = model
        self._switch = switch
        self._prompt = input_ids
        self._kwargs = {name: value for name, value in model_kwargs.items() if name != "inputs_embeds"}
        self._has_embeddings = model_kwargs.get("inputs_embeds") is not None
        self._emitted: list[int] = []

    def prefill(self, cache: ArenaCache) -> Tensor | None:
        """Read a prompt longer than the switch; return its last logits [1, k, V], None if none is."""
        if self._switch is None or self._prompt.shape[1] <= self._switch or self._has_embeddings:
            return None
        kwargs = {**self._kwargs, "past_key_values": cache}
        return forward_in_emptied_cache(self._model, self._prompt, kwargs, is_first_iteration=True)

    def is_due(self, held: int) -> bool:
        """Return whether the next step, the cache holding so many tokens, may start it anew."""
        if self._switch is None:
            return False
        return held <= self._switch < self._prompt.shape[1] + len(self._emitted) + 1

    def step(self, token: int, cache: ArenaCache) -> Tensor | None:
        """Do the step after `token`, the cache started anew; return logits [1, 1, V], None if it is kept."""
        tokens = torch.tensor([[*self._emitted, token]], device=self._prompt.device)
        text = torch.cat([self._prompt, tokens], dim=1)
        kwargs = {**self._kwargs, "past_key_values": cache}
        mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
        if mask is not None:
            kwargs["attention_mask"] = torch.cat([mask, mask.new_ones(1, tokens.shape[1])], dim=1)
        if positions is not None:
            following = (
                torch.arange(1, 1 + tokens.shape[1], device=positions.device)[None] + positions[:, -1:]
            )
            kwargs["position_ids"] = torch.cat([positions, following], dim=1)
        logits = forward_in_emptied_cache(self._model, text, kwargs, next_sequence_length=1)
        return None if logits is None else logits[:, -1:]

    def keep(self, tokens: list[int]) -> None:
        """Take note of the tokens kept in the cache."""
        if self._switch is not None:
            self._emitted += tokens
