"""A transformers model as the loop sees it: prefill, verify trees, keep paths."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from lookahead.decoding.attention.split_attention import SeenByAll, splits_on
from lookahead.decoding.attention.tree_mask import tree_mask, tree_positions
from lookahead.decoding.attention.visibility import TreeRow
from lookahead.decoding.logits import VerifiedLogits
from lookahead.drafting.tree import DraftTree
from lookahead.hf.attention.branch_order import BranchPlaces, attending_in_order, with_places
from lookahead.hf.attention.grouped_query import (
    grouped_query_attention,
    query_groups,
    with_repeated_rows,
    with_seen_by_all,
)
from lookahead.hf.attention.position_bias import PositionBias
from lookahead.hf.cache.arena_cache import ArenaCache
from lookahead.hf.cache.callers_cache import read_into, write_back
from lookahead.hf.cache.longrope_restart import CacheRestart
from lookahead.hf.compat.generation import decoding_experts, extra_inputs, prefill
from lookahead.hf.compat.layout import AttentionLayout
from lookahead.hf.compat.limits import DraftLimits
from lookahead.hf.compat.traits import takes_positions
from lookahead.hf.steps.compiled_cpu import FusedModel
from lookahead.hf.steps.cuda_graphs import CapturedSteps
from lookahead.hf.steps.step_inputs import StepInputs, first_positions
from lookahead.hf.steps.verification import TREE, ModelMode, Verification

_NO_LOCK = nullcontext()
_PADDING_TREE = DraftTree.root_only(0)
"""What a finished row goes on with where it has to stay in the forward: nothing of it is read or kept."""
_FIRST_CAPACITY = 512
"""Tokens of answer allocated for at first; the arena grows when they are used up."""
_FIRST_CAPACITY_CAPTURED = 4096
"""… where to grow means to capture the steps anew."""


class TransformersStepModel:
    """A batch's forwards and cache.

    Args:
        model: a decoder-only model.
        layout: how its layers see the past.
        input_ids: int64 [B, L], the prompts.
        generation_config: as `generate` prepared it.
        model_kwargs: as `generate` prepared them; their cache is replaced by an arena.
        max_new_tokens: tokens that will be emitted at most.
        decoding_length: the most nodes of a draft tree.
        recycle_prompt_tokens: how many of the prompts' last tokens have their logits returned.
        verification: how drafts are verified; what is given must then be of that kind.
        step_inputs: what the steps are given beside tokens, cache and mask; none of it unserved.
        bias: what of the model reads positions off slots, where that is known already.
        captured: the model's captured steps, where it has such; given back when this is closed.
        lock: held during forwards: trees of some models change them for as long.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        layout: AttentionLayout,
        input_ids: Tensor,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        *,
        max_new_tokens: int,
        decoding_length: int,
        recycle_prompt_tokens: int = 1,
        verification: Verification = TREE,
        step_inputs: StepInputs | None = None,
        bias: PositionBias | None = None,
        captured: CapturedSteps | None = None,
        lock: AbstractContextManager[Any] = _NO_LOCK,
    ) -> None:
        self._switches = ExitStack()
        self._model = model
        self._step_inputs = step_inputs or StepInputs()
        self._layout = layout
        self._input_ids = input_ids
        self._generation_config = generation_config
        self._model_kwargs = model_kwargs
        self._verification = verification
        self._limits = DraftLimits.of(model, kept=[] if verification.mode is ModelMode.TREE else layout.kept)
        self._bias = PositionBias(model) if bias is None else bias
        self._lock = lock
        self._captured = None if self._bias or self._step_inputs.types else captured
        if captured is not None:
            self._switches.callback(captured.close)
        switch = self._limits.rope_switch if len(input_ids) == 1 else None  # no batch gets as far
        self._restart = CacheRestart(model, switch, input_ids, model_kwargs)
        self._max_depths, self._max_nodes = max_new_tokens, decoding_length
        max_slots = max(decoding_length, verification.shape or 1)
        self._query_groups = query_groups(model) if verification.folds else 1
        self._takes_positions = takes_positions(model)
        self._recycle_prompt_tokens = recycle_prompt_tokens
        self._handed_cache = model_kwargs.get("past_key_values")
        self._rows = list(range(input_ids.shape[0]))
        self._drafts: Mapping[int, DraftTree] = {}
        mask: Tensor | None = model_kwargs.get("attention_mask")
        self._padding = {row: None if mask is None else mask[row].cpu() for row in self._rows}
        self._lengths = dict.fromkeys(self._rows, 0)
        self._next_positions: dict[int, int] = {}
        positions: Tensor | None = model_kwargs.get("position_ids")
        prompt_length = input_ids.shape[1] if positions is None else positions.shape[-1]
        largest = prompt_length + max_new_tokens + max_slots
        first = _FIRST_CAPACITY if captured is None else _FIRST_CAPACITY_CAPTURED
        capacity = min(largest, prompt_length + first + max_slots)
        allocate = None if captured is None else captured.allocate
        self.cache = ArenaCache(layout.kept, capacity, layout.borrowing, largest=largest, allocate=allocate)

    def prefill(self) -> Tensor:
        """Read the prompts; return logits [B, k, V] after their last k tokens, the first new token's last."""
        if isinstance(self._handed_cache, Cache):
            read_into(self.cache.arena, self._handed_cache)
        self._model_kwargs = {**self._model_kwargs, "past_key_values": self.cache}
        with self._lock:
            logits = self._restart.prefill(self.cache)
            if logits is None:
                logits = prefill(
                    self._model,
                    self._input_ids,
                    self._generation_config,
                    self._model_kwargs,
                    max_logits=self._recycle_prompt_tokens,
                )
        self._lengths = dict.fromkeys(self._rows, self.cache.get_seq_length())
        firsts = first_positions(len(self._rows), self.cache.get_seq_length(), self._model_kwargs)
        self._next_positions = dict(zip(self._rows, firsts.tolist(), strict=True))
        self._switches.enter_context(decoding_experts(self._model))
        return logits

    def forward(self, drafts: Mapping[int, DraftTree]) -> dict[int, Tensor]:
        """Verify a draft tree of each row behind what the cache holds; return logits [n, V] by row.

        Rows without a draft are left out, from now on; but not of forwards that have to have one shape.
        """
        if self._verification.shape is None:
            self._select(drafts)
        self._drafts = drafts
        trees = [drafts.get(row, _PADDING_TREE) for row in self._rows]
        longest = max(map(len, trees))
        size = self._verification.shape or longest
        argmax: Tensor | None = None
        with self._lock:
            logits = self._restarted(trees[0]) if longest == 1 else None
            if logits is None and self.is_fused:
                logits = self._fused.forward(
                    _tokens(trees, size),
                    self._positions(trees, size),
                    self._rows_of(trees),
                    self._start,
                    self.cache.arena,
                )
            if logits is None and self._captured is not None:
                logits, argmax = self._captured.forward(
                    lambda nodes: (_tokens(trees, nodes), self._positions(trees, nodes)),
                    self._rows_of(trees),
                    self._start,
                    self.cache,
                    partial(self._verified, trees, size),
                )
            if logits is None:
                logits = self._verified(trees, size)
        if logits.device.type != "cpu":
            argmax = logits.argmax(dim=-1) if argmax is None else argmax
            wait_for(logits)  # so that the forward's time is counted as its own
        return VerifiedLogits(self._rows, trees, logits, argmax, asked=drafts)

    def max_draft_depth(self, row: int) -> int:
        """Return how deep a row's draft may go within the model's positions; beyond them steps are plain."""
        if self._restart.is_due(self._start):
            return 0
        position = self._next_positions[row] + self._step_inputs.max_ahead(row)
        levels = self._limits.max_draft_depth(position, self._start, self._max_nodes)
        return self._max_depths if levels is None else levels

    def keep(self, paths: Mapping[int, list[int]]) -> None:
        """Keep in the cache, of the trees just forwarded, only the nodes of each row's path."""
        lengths = [self._lengths[row] for row in self._rows]
        self.cache.arena.keep(self._start, [paths.get(row, []) for row in self._rows], lengths)
        for row in paths:
            self._lengths[row] += len(paths[row])
            self._next_positions[row] += len(paths[row])
        first = next(iter(paths))
        self._restart.keep(self._drafts[first].token_ids[paths[first]].tolist())

    def returned_cache(self) -> object:
        """Return the cache as `generate` would: the one that was handed over, brought up to date."""
        write_back(self.cache, self._handed_cache)
        return self._handed_cache

    def close(self) -> None:
        """Leave the model as it was."""
        self._switches.close()

    @property
    def rows(self) -> Sequence[int]:
        """The rows in the cache."""
        return self._rows

    @property
    def is_fused(self) -> bool:
        """Whether steps are done by a function of our own over the model's weights."""
        return self._verification.is_fused

    @property
    def is_captured(self) -> bool:
        """Whether steps are captured in CUDA graphs, each shape when it is used for the second time."""
        return self._captured is not None

    @property
    def way(self) -> str:
        """How steps are done where not by the model's own code in the shape of the drafts; else empty."""
        if self.is_fused or self.is_captured:
            return "fused" if self.is_fused else "captured"
        return "" if self._verification.shape is None else f"ordered {self._verification.shape}"

    @cached_property
    def _fused(self) -> FusedModel:
        """The model's step, made after the prompt has been read: nobody waits for it with the first token."""
        return FusedModel(self._model, self._layout)

    @property
    def _start(self) -> int:
        """The first slot behind all rows."""
        return max(self._lengths[row] for row in self._rows)

    def _select(self, drafts: Mapping[int, DraftTree]) -> None:
        """Leave out the rows that have no draft."""
        if len(drafts) == len(self._rows):
            return
        places = [place for place, row in enumerate(self._rows) if row in drafts]
        self._rows = [self._rows[place] for place in places]
        self.cache.arena.select_rows(places)
        self.cache.arena.truncate(self._start)

    def _verified(self, trees: Sequence[DraftTree], size: int) -> Tensor:
        """Return logits [B, size, V] of a forward over the trees of all rows."""
        device = self._model.device
        inputs: dict[str, Any] = {"past_key_values": self.cache, "use_cache": True, "return_dict": True}
        inputs |= extra_inputs(self._model, self._start, size)
        inputs |= self._step_inputs.token_types(self._rows, size)
        if self._takes_positions:
            inputs["position_ids"] = self._positions(trees, size).to(device)
        is_even = all(self._lengths[row] == self._start for row in self._rows)
        is_tree = self._verification.mode is ModelMode.TREE
        is_masked = is_tree and (size > 1 or not is_even)
        inputs["attention_mask"] = self._mask(trees, size) if is_masked else self._plain_mask(size)
        self.cache.show_all(is_masked)
        tokens = _tokens(trees, size).to(device)
        with ExitStack() as told:
            if is_masked and self._bias:
                padding = self._padding[self._rows[0]]  # a batch of such a model is verified as chains
                told.enter_context(
                    self._bias.told(trees[0], self._start, None if padding is None else padding[None])
                )
            if self._verification.shape is not None:
                told.enter_context(attending_in_order(self._model))
            elif is_masked and self._verification.folds:
                told.enter_context(grouped_query_attention(self._model))
            logits: Tensor = self._model(input_ids=tokens, **inputs).logits
        return logits

    def _restarted(self, tree: DraftTree) -> Tensor | None:
        """Return logits [1, 1, V] of the step in which a longrope model's cache starts anew, if it is."""
        if not self._restart.is_due(self._start):
            return None
        logits = self._restart.step(int(tree.token_ids[0]), self.cache)
        if logits is not None:
            self._lengths[self._rows[0]] = self.cache.get_seq_length() - 1  # `keep` counts this step's token
        return logits

    def _positions(self, trees: Sequence[DraftTree], size: int) -> Tensor:
        firsts = [self._next_positions[row] for row in self._rows]
        counted = [tree_positions(tree, first, size) for tree, first in zip(trees, firsts, strict=True)]
        return self._step_inputs.positions(torch.stack(counted), self._rows)

    def _mask(self, trees: Sequence[DraftTree], size: int) -> Tensor | dict[str, Tensor]:
        """Return the trees' mask, one for each type of layer where they see the past in different ways."""
        rows, shape = self._rows_of(trees), self._verification.shape
        masks: dict[str, Tensor] = {}
        device = self._model.device
        for name, window in self._layout.windows.items():
            past: dict[str, Any] = {"window": window, "chunk": self._layout.chunks.get(name)}
            slots = {"start": self._start, "size": size}
            mask = tree_mask(rows, self._model.dtype, **past, **slots).to(device)
            if shape is not None:
                masks[name] = with_places(mask, BranchPlaces(rows, **past, **slots, device=device))
                continue
            if splits_on(device):
                mask = with_seen_by_all(mask, SeenByAll.of(rows, **past))
            masks[name] = with_repeated_rows(mask, self._query_groups)
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _rows_of(self, trees: Sequence[DraftTree]) -> list[TreeRow]:
        return [
            TreeRow(tree, self._lengths[row], self._padding[row])
            for row, tree in zip(self._rows, trees, strict=True)
        ]

    def _plain_mask(self, size: int) -> Tensor | None:
        """Return what `generate` itself would give for so many tokens behind the cache."""
        length = self._start + size
        paddings = [self._padding[row] for row in self._rows]
        masks = [
            torch.nn.functional.pad(padding, (0, length - len(padding)), value=1)
            for padding in paddings
            if padding is not None
        ]
        return torch.stack(masks).to(self._model.device) if masks else None


def _tokens(trees: Sequence[DraftTree], size: int) -> Tensor:
    """Return the trees' tokens, int64 [B, size]; behind a tree node 0's, whose logits nobody reads."""
    tokens = np.empty((len(trees), size), np.int64)
    for of_row, tree in zip(tokens, trees, strict=True):
        of_row[: len(tree)] = tree.token_ids
        of_row[len(tree) :] = tree.token_ids[0]
    return torch.from_numpy(tokens)


def prefilled(
    model: PreTrainedModel,
    layout: AttentionLayout,
    prompt: Sequence[int],
    *,
    decoding_length: int,
    verification: Verification = TREE,
    captured: CapturedSteps | None = None,
) -> TransformersStepModel:
    """Return a step model that has read one prompt outside any call of `generate`, for trying things out."""
    ids = torch.tensor([list(prompt)], device=model.device)
    model_kwargs: dict[str, Any] = {
        "attention_mask": None,
        "position_ids": torch.arange(len(prompt), device=model.device)[None],
        "use_cache": True,
    }
    step_model = TransformersStepModel(
        model,
        layout,
        ids,
        model.generation_config,
        model_kwargs,
        max_new_tokens=8,
        decoding_length=decoding_length,
        verification=verification,
        step_inputs=StepInputs.of(model, ids, model_kwargs, layout),
        captured=captured,
    )
    step_model.prefill()
    return step_model


def wait_for(tensor: Tensor) -> None:
    """Return when a tensor is computed, of [.., .., 1 at least]; nothing is copied where that can be had."""
    if tensor.device.type == "cuda":
        torch.cuda.current_stream(tensor.device).synchronize()
    elif tensor.device.type != "cpu":
        tensor[-1, -1, 0].item()
