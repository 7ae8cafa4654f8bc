"""Plain steps as `generate` does them, in transformers' own cache: for models that an arena cannot serve."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lookahead.drafting.tree import DraftTree
from lookahead.hf.compat.changes import TemporaryChanges
from lookahead.hf.compat.generation import prefill_as_library, step_as_library, switch_experts
from lookahead.hf.compat.layout import cache_of

_NO_LOCK = nullcontext()


class LibraryStepModel:
    """The forward passes of a batch, one token per row; all rows stay in it until all are finished.

    Args:
        model: Any decoder-only model that `generate` supports, recurrent and hybrid ones included.
        input_ids: int64 [B, L], the prompts.
        generation_config: As `generate` prepared it.
        model_kwargs: As `generate` prepared them.
        lock: Held during forward passes.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        *,
        lock: AbstractContextManager[Any] = _NO_LOCK,
    ) -> None:
        self._model = model
        self._ids = input_ids
        self._generation_config = generation_config
        self._model_kwargs = model_kwargs
        self._lock = lock
        self._changes = TemporaryChanges()

    def prefill(self) -> Tensor:
        """Read the prompts; return logits [B, 1, V] after them."""
        with self._lock:
            logits, self._model_kwargs = prefill_as_library(
                self._model, self._ids, self._generation_config, self._model_kwargs
            )
        switch_experts(self._model, self._changes)
        return logits

    def forward(self, drafts: Mapping[int, DraftTree]) -> dict[int, Tensor]:
        """Read the one token of each row's tree of one node; return logits [1, V] by row."""
        tokens = [[int(drafts[row].token_ids[0])] for row in range(len(self._ids))]
        self._ids = torch.cat([self._ids, torch.tensor(tokens, device=self._ids.device)], dim=1)
        with self._lock:
            logits, self._model_kwargs = step_as_library(self._model, self._ids, self._model_kwargs)
        return dict(enumerate(logits))

    def max_draft_depth(self, row: int) -> int:  # noqa: ARG002  # no row may draft
        """Return 0: every step is plain."""
        return 0

    def are_logits_current(self) -> bool:
        """Return True: they are of one token, and used once."""
        return True

    def keep(self, paths: Mapping[int, list[int]]) -> None:
        """Do nothing: the library's cache keeps every token."""

    def remove(self, row: int) -> None:
        """Do nothing: all rows stay until all are finished."""

    def returned_cache(self) -> object:
        """Return the cache as `generate` would."""
        return cache_of(self._model_kwargs)

    def close(self) -> None:
        """Undo changes to the model."""
        self._changes.undo()
