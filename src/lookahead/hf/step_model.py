"""A transformers model as the loop sees it: prefill, verify trees, keep paths."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lookahead.decoding.tree_attention import RowOfTrees, tree_mask, tree_positions
from lookahead.drafting.tree import DraftTree
from lookahead.hf.cache import ArenaCache
from lookahead.hf.compat import (
    AttentionLayout,
    context_length,
    decoding_experts,
    folded_attention,
    prefill,
    query_groups,
    takes_positions,
    with_repeated_rows,
)

_FIRST_CAPACITY = 512
"""Tokens of answer allocated for at first; the arena doubles when they are used up."""


class TransformersStepModel:
    """A batch's forwards and cache.

    Args:
        model: a decoder-only model.
        layout: how its layers see the past.
        input_ids: int64 [B, L], the prompts.
        generation_config: as `generate` prepared it.
        model_kwargs: as `generate` prepared them; their cache is replaced by an arena.
        most_new_tokens: tokens that will be emitted at most.
        decoding_length: the most nodes of a draft tree.
        prompt_logits: how many of the prompts' last tokens have their logits returned.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        layout: AttentionLayout,
        input_ids: Tensor,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        *,
        most_new_tokens: int,
        decoding_length: int,
        prompt_logits: int = 1,
    ) -> None:
        self._model = model
        self._layout = layout
        self._input_ids = input_ids
        self._generation_config = generation_config
        self._model_kwargs = model_kwargs
        self._context = context_length(model)
        self._most_levels = most_new_tokens
        self._query_groups = query_groups(model)
        self._takes_positions = takes_positions(model)
        self._prompt_logits = prompt_logits
        self._rows = list(range(input_ids.shape[0]))
        mask: Tensor | None = model_kwargs.get("attention_mask")
        self._padding = {row: None if mask is None else mask[row].cpu() for row in self._rows}
        self._lengths = dict.fromkeys(self._rows, 0)
        self._next_positions: dict[int, int] = {}
        positions: Tensor | None = model_kwargs.get("position_ids")
        prompt_length = input_ids.shape[1] if positions is None else positions.shape[-1]
        capacity = prompt_length + min(most_new_tokens, _FIRST_CAPACITY) + decoding_length
        self.cache = ArenaCache(layout.layer_count, capacity)
        self._switches = ExitStack()

    def prefill(self) -> Tensor:
        """Read the prompts; return logits [B, k, V] after their last k tokens, the first new token's last."""
        self._model_kwargs["past_key_values"] = self.cache
        logits = prefill(
            self._model,
            self._input_ids,
            self._generation_config,
            self._model_kwargs,
            most_logits=self._prompt_logits,
        )
        self._lengths = dict.fromkeys(self._rows, self.cache.get_seq_length())
        self._next_positions = self._first_positions()
        self._switches.enter_context(decoding_experts(self._model))
        return logits

    def close(self) -> None:
        """Leave the model as it was."""
        self._switches.close()

    def _first_positions(self) -> dict[int, int]:
        """Return, by row, the position of the first new token."""
        positions: Tensor | None = self._model_kwargs.get("position_ids")
        if positions is None:  # `generate` made none, so that nothing is padded
            return dict(self._lengths)
        last = positions[..., -1].expand(len(self._rows)).tolist()
        return {row: position + 1 for row, position in zip(self._rows, last, strict=True)}

    def forward(self, drafts: Mapping[int, DraftTree]) -> dict[int, Tensor]:
        """Verify a draft tree of each row behind what the cache holds; return logits [n, V] by row.

        Rows without a draft are left out, from now on.
        """
        self._select(drafts)
        device = self._model.device
        trees = [drafts[row] for row in self._rows]
        size = max(map(len, trees))
        inputs: dict[str, Any] = {"past_key_values": self.cache, "use_cache": True, "return_dict": True}
        if self._takes_positions:
            inputs["position_ids"] = self._positions(trees, size).to(device)
        inputs["attention_mask"] = self._mask(trees, size)
        tokens = torch.stack([_tokens(tree, size) for tree in trees]).to(device)
        if size == 1:
            outputs = self._model(input_ids=tokens, **inputs)
        else:
            with folded_attention(self._model):
                outputs = self._model(input_ids=tokens, **inputs)
        logits: Tensor = outputs.logits
        if logits.device.type != "cpu":
            logits[-1, -1, 0].item()  # waits for the device, so that the forward's time is counted as its own
        return {row: of_row[: len(tree)] for row, tree, of_row in zip(self._rows, trees, logits, strict=True)}

    def levels_left(self, row: int) -> int:
        """Return how deep a row's draft may go within the model's positions; beyond them steps are plain."""
        if self._context is None:
            return self._most_levels
        return max(0, self._context - 1 - self._next_positions[row])

    def keep(self, paths: Mapping[int, list[int]]) -> None:
        """Keep in the cache, of the trees just forwarded, only the nodes of each row's path."""
        lengths = [self._lengths[row] for row in self._rows]
        self.cache.arena.keep(self._start, [paths[row] for row in self._rows], lengths)
        for row in self._rows:
            self._lengths[row] += len(paths[row])
            self._next_positions[row] += len(paths[row])

    @property
    def rows(self) -> Sequence[int]:
        """The rows in the cache."""
        return self._rows

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

    def _positions(self, trees: Sequence[DraftTree], size: int) -> Tensor:
        firsts = [self._next_positions[row] for row in self._rows]
        return torch.stack(
            [tree_positions(tree, first, size) for tree, first in zip(trees, firsts, strict=True)]
        )

    def _mask(self, trees: Sequence[DraftTree], size: int) -> Tensor | dict[str, Tensor] | None:
        """Return what the model takes as `attention_mask`: for plain steps exactly what `generate` gives."""
        start = self._start
        if size == 1 and all(self._lengths[row] == start for row in self._rows):
            return self._plain_mask(start + 1)
        rows = [
            RowOfTrees(tree, self._lengths[row], self._padding[row])
            for row, tree in zip(self._rows, trees, strict=True)
        ]
        masks: dict[str, Tensor] = {}
        for name, window in self._layout.windows.items():
            mask = tree_mask(rows, self._model.dtype, start=start, size=size, window=window)
            masks[name] = with_repeated_rows(mask.to(self._model.device), self._query_groups)
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _plain_mask(self, length: int) -> Tensor | None:
        paddings = [self._padding[row] for row in self._rows]
        masks = [
            torch.nn.functional.pad(padding, (0, length - len(padding)), value=1)
            for padding in paddings
            if padding is not None
        ]
        return torch.stack(masks).to(self._model.device) if masks else None


def _tokens(tree: DraftTree, size: int) -> Tensor:
    """Return a tree's tokens, int64 [size]; behind them node 0's, whose logits nobody reads."""
    tokens = torch.full((size,), int(tree.token_ids[0]))
    tokens[: len(tree)] = torch.from_numpy(tree.token_ids)
    return tokens


def prefilled(
    model: PreTrainedModel, layout: AttentionLayout, prompt: Sequence[int], *, decoding_length: int
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
        most_new_tokens=8,
        decoding_length=decoding_length,
    )
    step_model.prefill()
    return step_model
