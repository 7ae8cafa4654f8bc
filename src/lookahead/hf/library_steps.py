"""Plain steps as `generate` does them, in the library's own cache: for what no arena can hold."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lookahead.drafting.tree import DraftTree
from lookahead.hf.compat import made_cache, prefill_as_library, step_as_library


class LibraryStepModel:
    """One sequence's forwards, one token at a time.

    Args:
        model: a decoder-only model: recurrent, hybrid, whatever `generate` takes.
        input_ids: int64 [1, L], the prompt.
        generation_config: as `generate` prepared it.
        model_kwargs: as `generate` prepared them.
    """

    levels_left = 0

    def __init__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        generation_config: Any,
        model_kwargs: dict[str, Any],
    ) -> None:
        self._model = model
        self._ids = input_ids
        self._generation_config = generation_config
        self._model_kwargs = model_kwargs

    def prefill(self) -> Tensor:
        """Read the prompt; return logits [1, V] after it."""
        logits, self._model_kwargs = prefill_as_library(
            self._model, self._ids, self._generation_config, self._model_kwargs
        )
        return logits

    def forward(self, tree: DraftTree) -> Tensor:
        """Read the one token of a tree of one node; return logits [1, V]."""
        token = torch.tensor([[int(tree.token_ids[0])]], device=self._ids.device)
        self._ids = torch.cat([self._ids, token], dim=1)
        logits, self._model_kwargs = step_as_library(self._model, self._ids, self._model_kwargs)
        return logits

    def keep(self, path: list[int]) -> None:
        """Do nothing: what has been read is kept."""

    def returned_cache(self) -> object:
        """Return the cache as `generate` would."""
        return made_cache(self._model_kwargs)
