"""A transformers model as the loop sees it: prefill, verify a tree, keep a path."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from lookahead.decoding.chunks import in_other_chunk
from lookahead.decoding.tree_attention import tree_mask, tree_positions
from lookahead.drafting.tree import DraftTree
from lookahead.hf.cache import ArenaCache
from lookahead.hf.cache_restart import CacheRestart
from lookahead.hf.compat import (
    AttentionLayout,
    extra_inputs,
    folded_attention,
    prefill,
    query_groups,
    takes_positions,
    text_config,
)
from lookahead.hf.limits import DraftLimits
from lookahead.hf.position_bias import PositionBias
from lookahead.hf.verification import TREE, ModelMode, Verification

_FIRST_CAPACITY = 512
"""Tokens of answer allocated for at first; the arena doubles when they are used up."""


class TransformersStepModel:
    """One sequence's forwards and cache.

    Args:
        model: a decoder-only model.
        layout: how its layers see the past.
        input_ids: int64 [1, L], the prompt.
        generation_config: as `generate` prepared it.
        model_kwargs: as `generate` prepared them; their cache is replaced by an arena.
        most_new_tokens: tokens that will be emitted at most.
        decoding_length: the most nodes of a draft tree.
        prompt_logits: how many of the prompt's last tokens have their logits returned.
        verification: how drafts are verified; what is given must then be of that kind.
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
        verification: Verification = TREE,
    ) -> None:
        self._model = model
        self._layout = layout
        self._input_ids = input_ids
        self._generation_config = generation_config
        self._model_kwargs = model_kwargs
        self._verification = verification
        self._limits = DraftLimits.of(model, kept=[] if verification.mode is ModelMode.TREE else layout.kept)
        self._bias = PositionBias(model)
        self._restart = CacheRestart(model, self._limits.rope_switch, input_ids, model_kwargs)
        self._most_levels, self._most_nodes = most_new_tokens, decoding_length
        self._tree = DraftTree.root_only(0)
        self._query_groups = query_groups(model) if verification.folds else 1
        self._takes_positions = takes_positions(model)
        self._padding: Tensor | None = model_kwargs.get("attention_mask")
        self._prefix_length = 0
        self._prompt_logits = prompt_logits
        positions = model_kwargs.get("position_ids")
        self._next_position = -1 if positions is None else int(positions[..., -1].max()) + 1
        prompt_length = input_ids.shape[1] if positions is None else positions.shape[-1]
        capacity = prompt_length + min(most_new_tokens, _FIRST_CAPACITY) + decoding_length
        self.cache = ArenaCache(layout.kept, capacity, layout.borrowing)

    def prefill(self) -> Tensor:
        """Read the prompt; return logits [k, V] after its last k tokens, the first new token's last."""
        self._model_kwargs["past_key_values"] = self.cache
        logits = self._restart.prefill(self.cache)
        if logits is None:
            logits = prefill(
                self._model,
                self._input_ids,
                self._generation_config,
                self._model_kwargs,
                most_logits=self._prompt_logits,
            )
        self._prefix_length = self.cache.get_seq_length()
        if self._next_position < 0:  # `generate` made no positions, so none are padded
            self._next_position = self._prefix_length
        return logits

    def forward(self, tree: DraftTree) -> Tensor:
        """Verify a draft tree behind what the cache holds; return logits [n, V]."""
        logits: Tensor | None
        self._tree = tree
        if len(tree) == 1 and self._restart.is_due(self._prefix_length):
            logits = self._restart.step(int(tree.token_ids[0]), self.cache)
            if logits is not None:
                self._prefix_length = self.cache.get_seq_length() - 1  # `keep` counts this step's token
                return logits
        device = self._model.device
        tokens = torch.from_numpy(tree.token_ids.astype("int64"))[None].to(device)
        inputs: dict[str, Any] = {"past_key_values": self.cache, "use_cache": True, "return_dict": True}
        inputs |= extra_inputs(self._model, self._prefix_length, len(tree))
        if self._takes_positions:
            inputs["position_ids"] = tree_positions(tree, self._next_position)[None].to(device)
        inputs["attention_mask"] = self._mask(tree)
        is_tree = len(tree) > 1 and self._verification.mode is ModelMode.TREE
        self.cache.show_all(is_tree)
        with ExitStack() as told:
            if is_tree:
                told.enter_context(self._bias.told(tree, self._prefix_length, self._padding))
                if self._verification.folds:
                    told.enter_context(folded_attention(self._model))
            outputs = self._model(input_ids=tokens, **inputs)
        logits = outputs.logits[0]
        if logits.device.type != "cpu":
            logits[-1, 0].item()  # waits for the device, so that the forward's time is counted as its own
        return logits

    @property
    def levels_left(self) -> int:
        """How deep a draft may go within the model's positions; beyond them steps are plain ones."""
        if self._restart.is_due(self._prefix_length):
            return 0
        levels = self._limits.levels_left(self._next_position, self._prefix_length, self._most_nodes)
        return self._most_levels if levels is None else levels

    def keep(self, path: list[int]) -> None:
        """Keep in the cache, of the tree just forwarded, only the nodes of `path`."""
        self.cache.keep(self._prefix_length, path)
        self._restart.keep(self._tree.token_ids[path].tolist())
        self._prefix_length += len(path)
        self._next_position += len(path)

    def returned_cache(self) -> DynamicCache:
        """Return the cache as `generate` would."""
        return self.cache.as_dynamic(text_config(self._model))

    def _mask(self, tree: DraftTree) -> Tensor | dict[str, Tensor] | None:
        """Return what the model takes as `attention_mask`: for a plain step exactly what `generate` gives."""
        if len(tree) == 1 or self._verification.mode is not ModelMode.TREE:
            if self._padding is None:
                return None
            ones = self._padding.new_ones(1, self._prefix_length + len(tree) - self._padding.shape[1])
            return torch.cat([self._padding, ones], dim=1).to(self._model.device)
        masks = {name: self._window_mask(tree, name) for name in self._layout.windows}
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _window_mask(self, tree: DraftTree, layer_type: str) -> Tensor:
        model = self._model
        mask = tree_mask(tree, self._prefix_length, model.dtype, window=self._layout.windows[layer_type])
        if layer_type in self._layout.chunks:
            # The library counts chunks from the first token that is no padding, that is by positions.
            other = in_other_chunk(
                tree, self._prefix_length, self._next_position, self._layout.chunks[layer_type]
            )
            mask.masked_fill_(other, torch.finfo(model.dtype).min)
        if self._padding is not None:
            padded = self._padding.shape[1]
            mask[:, :padded].masked_fill_(self._padding.cpu() == 0, torch.finfo(model.dtype).min)
        return mask.repeat(self._query_groups, 1)[None, None].to(model.device)


def prefilled(
    model: PreTrainedModel,
    layout: AttentionLayout,
    prompt: Sequence[int],
    *,
    decoding_length: int,
    verification: Verification = TREE,
) -> TransformersStepModel:
    """Return a step model that has read a prompt outside any call of `generate`, for trying things out."""
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
        verification=verification,
    )
    step_model.prefill()
    return step_model
