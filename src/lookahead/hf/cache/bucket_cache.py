"""An arena's cache as a captured step sees it: a fixed number of slots, written where a tensor says."""

from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from lookahead.hf.cache.arena_cache import ArenaCache, ArenaLayer
from lookahead.hf.compat.layout import empty_layer


class NotStaticError(Exception):
    """A step depends on something that changes from step to step; the message names it."""


class BucketLayer(DynamicLayer):
    """A layer that writes to the slots in a tensor on the device, and returns a fixed number of slots.

    Args:
        keys: [B, heads, slots, width], a part of an arena.
        values: [B, heads, slots, value width].
        is_sliding: Whether the layer has a window.
    """

    def __init__(self, keys: Tensor, values: Tensor, *, is_sliding: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values = self._memory = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_sliding = is_sliding
        self.is_initialized = True
        self.slots = torch.empty(0, 0, dtype=torch.int64, device=keys.device)

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write keys and values [B, heads, n, width]; return all slots, some of which the mask hides."""
        rows = torch.arange(len(key_states), device=key_states.device)[:, None]
        for memory, states in zip(self._memory, (key_states, value_states), strict=True):
            memory.transpose(1, 2)[rows, self.slots] = states.transpose(1, 2)
        return self._memory

    def get_mask_sizes(self, query_length: int) -> NoReturn:  # noqa: ARG002  # transformers' signature
        """Raise: the graph would record the answer as a constant."""
        message = "its mask depends on the cache's length, which changes from step to step"
        raise NotStaticError(message)

    def get_seq_length(self) -> NoReturn:
        """Raise: the graph would record the answer as a constant."""
        message = "it reads the cache's length, which changes from step to step"
        raise NotStaticError(message)


class BucketCache(Cache):
    """An arena's cache as a captured step sees it.

    Args:
        cache: The cache whose arena holds the tokens.
        rows: B.
        slots: How many slots of each row are attended to.
    """

    def __init__(self, cache: ArenaCache, rows: int, slots: int) -> None:
        layers: list[Any] = []
        for index, layer in enumerate(cache.layers):
            if isinstance(layer, ArenaLayer):
                keys, values = (part[:rows, :, :slots] for part in cache.arena.memory(index))
                layers.append(BucketLayer(keys, values, is_sliding=layer.is_sliding))
            else:
                layers.append(empty_layer())
        super().__init__(layers=layers)
        self._moves = cache.arena.moves
        device = next(layer.device for layer in layers if isinstance(layer, BucketLayer))
        with torch.inference_mode(False):  # later calls may be in inference mode or not
            self._rows = torch.arange(rows, device=device)[:, None]

    def move(self, sources: Tensor, targets: Tensor) -> None:
        """Move slots of each row in all layers, int64 [rows, m]."""
        self._moves.move(self._rows, sources, targets)

    def write_at(self, slots: Tensor) -> None:
        """Set the slots of the next tokens, int64 [rows, n]."""
        for layer in self.layers:
            if isinstance(layer, BucketLayer):
                layer.slots = slots
