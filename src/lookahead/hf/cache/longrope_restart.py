"""Longrope models that restart their cache at the length where their rotary frequencies change.

In `generate`, the model's own `prepare_inputs_for_generation` drops the cache there (Phi-3's does, the
general one does not). So Lookahead calls it, too, at the same lengths with the same inputs, and follows it.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lookahead.hf.cache.arena_cache import ArenaCache
from lookahead.hf.compat.generation import forward_with_cleared_cache


class CacheRestart:
    """Follows one text's length, and does the forward pass that restarts the cache.

    Args:
        model: A decoder-only model.
        switch: Length of the longest text with the first frequencies; None for a model with only one set.
        input_ids: int64 [1, L], the prompt.
        model_kwargs: As `generate` prepared them.
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
        """Read a prompt longer than the switch; return its last logits [1, k, V], None if it is shorter."""
        if self._switch is None or self._prompt.shape[1] <= self._switch or self._has_embeddings:
            return None
        kwargs = {**self._kwargs, "past_key_values": cache}
        return forward_with_cleared_cache(self._model, self._prompt, kwargs, is_first_iteration=True)

    def is_due(self, held: int) -> bool:
        """Return whether the next step may restart a cache that holds `held` tokens."""
        if self._switch is None:
            return False
        return held <= self._switch < self._prompt.shape[1] + len(self._emitted) + 1

    def step(self, token: int, cache: ArenaCache) -> Tensor | None:
        """Do the step after `token` with a new cache; return logits [1, 1, V], None if the cache is kept."""
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
        logits = forward_with_cleared_cache(self._model, text, kwargs, next_sequence_length=1)
        return None if logits is None else logits[:, -1:]

    def keep(self, tokens: list[int]) -> None:
        """Append the tokens kept in the cache to the text."""
        if self._switch is not None:
            self._emitted += tokens
