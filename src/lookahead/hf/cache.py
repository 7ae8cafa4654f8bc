"""The library's cache interface over Lookahead's arena."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from lookahead.decoding.arena import KVArena
from lookahead.hf.compat import keeping_nothing


class ArenaLayer(DynamicLayer):
    """One layer's keys and values, kept in the arena.

    It holds every token. In a tree's forward it shows them all, and what a node may not see is the mask's
    business. Else one with a sliding window shows what the library's own layer would, no more: there are
    models whose cache alone makes the window.
    """

    def __init__(self, arena: KVArena, layer: int, window: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._arena = arena
        self._layer = layer
        self._window = window
        self.is_sliding = window is not None
        self.shows_all = False

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values [B, heads, T, width]; return those that may be seen."""
        self.keys, self.values = self._arena.append(self._layer, key_states, value_states)
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.is_initialized = True
        if self._window is None or self.shows_all:
            return self.keys, self.values
        shown = self._window - 1 + key_states.shape[2]
        return self.keys[:, :, -shown:], self.values[:, :, -shown:]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many keys the next forward sees, and the slot of the first."""
        held = self.get_seq_length()
        hidden = 0 if self._window is None or self.shows_all else max(0, held - self._window + 1)
        return held - hidden + query_length, hidden

    def get_seq_length(self) -> int:
        """Return how many tokens the layer holds."""
        return self._arena.length(self._layer)


class ArenaCache(Cache):
    """A cache whose layers share one arena.

    Args:
        windows: each layer's sliding window in tokens, or None.
        capacity: tokens to allocate for at first.
        borrowing: layers that keep nothing.
        largest: tokens that there will be at most, as far as is known.
    """

    def __init__(
        self,
        windows: Sequence[int | None],
        capacity: int,
        borrowing: frozenset[int] = frozenset(),
        *,
        largest: int | None = None,
    ) -> None:
        self.arena = KVArena(len(windows) - len(borrowing), capacity, largest)
        layers: list[Any] = [
            keeping_nothing() if layer in borrowing else ArenaLayer(self.arena, layer, window)
            for layer, window in enumerate(windows)
        ]
        super().__init__(layers=layers)
        self._windowed = [layer for layer in layers if getattr(layer, "is_sliding", False)]

    def show_all(self, shows_all: bool) -> None:
        """Say whether the next forward's mask takes care of windows, as a tree's does."""
        for layer in self._windowed:
            layer.shows_all = shows_all
