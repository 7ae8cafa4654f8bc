"""Plain steps as `generate` does them, in the library's own cache: for what no arena can hold."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lookahead.drafting.tree import DraftTree
from lookahead.hf.compat.generation import decoding_experts, prefill_as_library, step_as_library
from lookahead.hf.compat.layout import made_cache

_NO_LOCK = nullcontext()


class LibraryStepModel:
    """A batch's forwards, one token of each row at a time; all rows stay in it until all are finished.

    Args:
        model: a decoder-only model: recurrent, hybrid, whatever `generate` takes.
        input_ids: int64 [B, L], the prompts.
        generation_config: as `generate` prepared it.
        model_kwargs: as `generate` prepared them.
        lock: held during forwards.
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
        self._switches = ExitStack()

    def prefill(self) -> Tensor:
        """Read the prompts; return logits [B, 1, V] after them."""
        with self._lock:
            logits, self._model_kwargs = prefill_as_library(
                self._model, self._ids, self._generation_config, self._model_kwargs
            )
        self._switches.enter_context(decoding_experts(self._model))
        return logits

    def forward(self, drafts: Mapping[int, DraftTree]) -> dict[int, Tensor]:
        """Read the one token of each row's tree of one node; return logits [1, V] by row."""
        tokens = [[int(drafts[row].token_ids[0])] for row in range(len(self._ids))]
        self._ids = torch.cat([self._ids, torch.tensor(tokens, device=self._ids.device)], dim=1)
        with self._lock:
            logits, self._model_kwargs = step_as_library(self._model, self._ids, self._model_kwargs)
        return dict(enumerate(logits))

    def max_draft_depth(self, row: int) -> int:  # noqa: ARG002  # no row may draft
        """Return 0: a step is a plain one."""
        return 0

    def keep(self, paths: Mapping[int, list[int]]) -> None:
        """Do nothing: what has been read is kept."""

    def remove(self, row: int) -> None:
        """Do nothing: all rows stay until all are finished."""

    def returned_cache(self) -> object:
        """Return the cache as `generate` would."""
        return made_cache(self._model_kwargs)

    def close(self) -> None:
        """Leave the model as it was."""
        self._switches.close()
