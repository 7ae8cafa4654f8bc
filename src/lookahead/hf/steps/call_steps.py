"""The step model of one call of `generate`. It reads the prompts as `generate` does."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from lookahead.decoding.logits import TreeLogits
from lookahead.drafting.tree import DraftTree
from lookahead.hf.cache.callers_cache import read_into, write_back
from lookahead.hf.cache.longrope_restart import CacheRestart
from lookahead.hf.compat.changes import TemporaryChanges
from lookahead.hf.compat.fingerprint.watch import ModelWatch
from lookahead.hf.compat.generation import prefill, switch_experts
from lookahead.hf.compat.layout import AttentionLayout
from lookahead.hf.compat.traits import ModelTraits
from lookahead.hf.steps.cuda_graphs import CapturedModels
from lookahead.hf.steps.runner import Row
from lookahead.hf.steps.step_inputs import StepInputs, first_positions, text_prompts
from lookahead.hf.steps.step_model import PROMPT_CHUNK_TOKENS, OnProgress, TransformersStepModel
from lookahead.hf.steps.verification import Verification


class CallStepModel(TransformersStepModel):
    """The rows of one call, numbered as in its batch.

    Args:
        model: A decoder-only model.
        traits: Its traits.
        layout: How its layers see the past.
        input_ids: int64 [B, L], the prompts.
        generation_config: As `generate` prepared it.
        model_kwargs: As `generate` prepared them; their cache is replaced by an arena.
        verification: How drafts are verified.
        max_new_tokens: Upper bound on the tokens of an answer.
        max_nodes: Upper bound on the nodes of a draft tree while no row has left.
        max_nodes_alone: Upper bound on the nodes of a draft tree when one row is left; the same if not given.
        recycle_prompt_tokens: For how many of each prompt's last tokens `prefill` returns logits.
        step_inputs: The steps' inputs besides tokens, cache and mask; `unserved` is empty.
        graphs: The captured steps of models; None captures nothing.
        lock: Held during each forward pass, because verifying a tree temporarily changes some models.
        watch: Notices that the model changes between steps; None if it does not.
        runs_callers_code: Whether code of the caller's runs between steps, which may change the model.
        on_progress: Called after each chunk of the prompts, or once if the model's own code reads them.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        traits: ModelTraits,
        layout: AttentionLayout,
        input_ids: Tensor,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        *,
        verification: Verification,
        max_new_tokens: int,
        max_nodes: int,
        max_nodes_alone: int | None = None,
        recycle_prompt_tokens: int = 1,
        step_inputs: StepInputs | None = None,
        graphs: CapturedModels | None = None,
        lock: AbstractContextManager[Any] | None = None,
        watch: ModelWatch | None = None,
        runs_callers_code: bool = True,
        on_progress: OnProgress | None = None,
    ) -> None:
        positions: Tensor | None = model_kwargs.get("position_ids")
        prompt_slots = input_ids.shape[1] if positions is None else positions.shape[-1]
        inputs = self._step_inputs = step_inputs or StepInputs()
        width = max(max_nodes, max_nodes_alone or 1, verification.fixed_width or 1)
        super().__init__(
            model,
            traits,
            layout,
            verification=verification if inputs.are_of_text else replace(verification, is_flat=False),
            max_nodes=max_nodes,
            max_rows=len(input_ids),
            prompt_slots=prompt_slots,
            max_slots=prompt_slots + max_new_tokens + width,
            graphs=None if inputs.types else graphs,
            lock=lock or nullcontext(),
            watch=watch,
            runs_callers_code=runs_callers_code,
        )
        self._changes = TemporaryChanges()
        self._input_ids = input_ids
        self._generation_config = generation_config
        self._model_kwargs = model_kwargs
        self._recycle_prompt_tokens = recycle_prompt_tokens
        self._on_progress = on_progress
        self._handed_cache = model_kwargs.get("past_key_values")
        switch = traits.limits.rope_switch if len(input_ids) == 1 else None  # batches end before it
        self._restart = CacheRestart(model, switch, input_ids, model_kwargs)
        self._drafts: Mapping[int, DraftTree] = {}

    @torch.no_grad()
    def prefill(self) -> Tensor:
        """Read the prompts; return logits [B, k, V] after each prompt's last k tokens."""
        arena, rows = self.cache.arena, range(len(self._input_ids))
        slots = [arena.add_row() for _ in rows]
        arena.set_active_rows(slots)
        if isinstance(self._handed_cache, Cache):
            read_into(arena, self._handed_cache)
            arena.keep_first()
        self._model_kwargs = {**self._model_kwargs, "past_key_values": self.cache}
        logits = self._read_by_runners(slots)
        if logits is None:
            arena.set_active_rows(slots)
            logits = self._read_by_model(slots)
        if self.model.device.type != "cuda":
            switch_experts(self.model, self._changes)
        return logits

    def _read_by_runners(self, slots: Sequence[int]) -> Tensor | None:
        """Read text in chunks by the compiled CPU decoder; None, with nothing read, if it cannot."""
        limits, inputs = self.traits.limits, self._step_inputs
        is_served = (
            self.verification.is_compiled and limits.rope_switch is None and limits.rope_growth is None
        )
        if not is_served or inputs.shift is not None or inputs.types:
            return None
        held = self.cache.arena.longest_length
        prompts = text_prompts(self._input_ids, self._model_kwargs, held)
        if prompts is None or not self._runners.create(self.cache):
            return None
        if held == 0:
            self.cache.arena.pad({slot: prompt.padding for slot, prompt in zip(slots, prompts, strict=True)})
        for row, (slot, prompt) in enumerate(zip(slots, prompts, strict=True)):
            self._rows[row] = Row(slot, max(0, held - prompt.padding), self._padding_of(row))
        most = self._recycle_prompt_tokens
        found = self.read(
            {row: prompt.tokens for row, prompt in enumerate(prompts)},
            chunk=self._generation_config.prefill_chunk_size or PROMPT_CHUNK_TOKENS,
            max_logits=most,
            on_progress=self._on_progress,
        )
        longest = max(map(len, found.values()))
        return torch.stack([_filled_up(found[row], longest) for row in range(len(prompts))])

    def _read_by_model(self, slots: Sequence[int]) -> Tensor:
        """Read the prompts as `generate` does."""
        arena, rows = self.cache.arena, range(len(self._input_ids))
        with self._lock:
            logits = self._restart.prefill(self.cache)
            if logits is None:
                logits = prefill(
                    self.model,
                    self._input_ids,
                    self._generation_config,
                    self._model_kwargs,
                    max_logits=self._recycle_prompt_tokens,
                )
        arena.keep_first()
        firsts = first_positions(len(rows), arena.longest_length, self._model_kwargs)
        for row, slot, position in zip(rows, slots, firsts.tolist(), strict=True):
            self._rows[row] = Row(slot, position, self._padding_of(row), *self._step_inputs.of_row(row))
        if self._on_progress is not None:
            self._on_progress(self._input_ids.numel(), self._input_ids.numel())
        return logits

    def _padding_of(self, row: int) -> Tensor | None:
        mask: Tensor | None = self._model_kwargs.get("attention_mask")
        return None if mask is None else mask[row].cpu()

    def forward(self, drafts: Mapping[int, DraftTree]) -> TreeLogits:
        """Verify a draft tree of each row; a longrope model's cache restarts where `generate`'s does."""
        self._drafts = drafts
        if self._restart.is_due(self.cache.arena.lengths[0]):
            (row,) = drafts
            logits = self._restarted(row, drafts[row])
            if logits is not None:
                return TreeLogits(drafts, {row: 0}, logits)
        return super().forward(drafts)

    def keep(self, paths: Mapping[int, Sequence[int]]) -> None:
        """Keep only the nodes of each row's path, of the trees verified last."""
        super().keep(paths)
        first = next(iter(paths))
        self._restart.keep(self._drafts[first].token_ids[list(paths[first])].tolist())

    def max_draft_depth(self, row: int) -> int:
        """Return how deep a row's draft may go within the model's positions."""
        return 0 if self._restart.is_due(self.cache.arena.lengths[0]) else super().max_draft_depth(row)

    def close(self) -> None:
        """Give back borrowed memory; the model is as it was."""
        self._changes.undo()
        super().close()

    def _switch_experts(self, changes: TemporaryChanges, tokens: int) -> None:
        """Do nothing but on CUDA devices: they are switched from the prompts to the end of the call."""
        if self.model.device.type == "cuda":
            super()._switch_experts(changes, tokens)

    def returned_cache(self) -> object:
        """Return the cache as `generate` would: the given one, brought up to date."""
        self.cache.arena.set_active_rows([row.slot for row in self._rows.values()])
        write_back(self.cache, self._handed_cache)
        return self._handed_cache

    def _restarted(self, row: int, tree: DraftTree) -> Tensor | None:
        """Return logits [1, 1, V] of a step that restarts a longrope model's cache; None if it does not."""
        arena = self.cache.arena
        arena.set_active_rows([self._rows[row].slot])
        with self._lock:
            logits = self._restart.step(int(tree.token_ids[0]), self.cache)
        if logits is not None:
            arena.keep_first(self.cache.get_seq_length() - 1)  # `keep` counts this step's token
        return logits


def _filled_up(logits: Tensor, size: int) -> Tensor:
    """Return logits [size, V]: those of a shorter prompt after copies of its first, which are not read."""
    return torch.cat([logits[:1].expand(size - len(logits), -1), logits])
