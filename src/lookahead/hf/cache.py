"""The library's cache interface over Lookahead's arena."""

from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from lookahead.decoding.arena import KVArena


class ArenaLayer(DynamicLayer):
    """One layer's keys and values, kept in the arena.

    It holds every token, sliding windows too: what a token may not see is the mask's business.
    """

    def __init__(self, arena: KVArena, layer: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._arena = arena
        self._layer = layer

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values [B, heads, T, width]; return all of them."""
        self.keys, self.values = self._arena.append(self._layer, key_states, value_states)
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.is_initialized = True
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Return how many tokens the layer holds."""
        return self._arena.length(self._layer)


class ArenaCache(Cache):
    """A cache whose layers share one arena."""

    def __init__(self, layer_count: int, capacity: int) -> None:
        self.arena = KVArena(layer_count, capacity)
        super().__init__(layers=[ArenaLayer(self.arena, layer) for layer in range(layer_count)])

    def as_dynamic(self, config: PreTrainedConfig) -> DynamicCache:
        """Return the library's own kind of cache with copies of what this one holds."""
        dynamic = DynamicCache(config=config)
        for layer in range(len(self.layers)):
            keys, values = self.arena.view(layer)
            dynamic.update(keys.clone(), values.clone(), layer)
        return dynamic
