"""The library's cache interface over Lookahead's arena."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from lookahead.decoding.arena import Allocate, KVArena
from lookahead.hf.compat.layout import keeping_nothing


class ArenaLayer(DynamicLayer):
    """One layer's keys and values, kept in the arena.

    It holds every token. In a tree's forward it shows them all, and what a node may not see is the mask's
    business. Else one with a sliding window shows what the library's own layer would, no more: there are
    models whose cache alone makes the window.
    """

    def __init__(self, arena: KVArena, layer: int, window: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # which says that it holds nothing
        self._arena = arena
        self._layer = layer
        self._window = window
        self.is_sliding = window is not None
        self.shows_all = False

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values [B, heads, T, width]; return those that may be seen."""
        keys, values = self._arena.append(self._layer, key_states, value_states)
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.is_initialized = True
        if self._window is None or self.shows_all:
            return keys, values
        shown = self._window - 1 + key_states.shape[2]
        return keys[:, :, -shown:], values[:, :, -shown:]

    @property
    def keys(self) -> Tensor | None:
        """What the layer holds, [B, heads, length, width]; None before it has seen a token."""
        return self._arena.view(self._layer)[0] if self.is_initialized else None

    @keys.setter
    def keys(self, keys: Tensor | None) -> None:
        _only_none(keys)

    @property
    def values(self) -> Tensor | None:
        """What the layer holds, [B, heads, length, value width]; None before it has seen a token."""
        return self._arena.view(self._layer)[1] if self.is_initialized else None

    @values.setter
    def values(self, values: Tensor | None) -> None:
        _only_none(values)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many keys the next forward sees, and the slot of the first."""
        held = self.get_seq_length()
        hidden = 0 if self._window is None or self.shows_all else max(0, held - self._window + 1)
        return held - hidden + query_length, hidden

    def get_seq_length(self) -> int:
        """Return how many tokens the layer holds."""
        return self._arena.length(self._layer)


def _only_none(states: Tensor | None) -> None:
    """Take note that a layer holds nothing: a view that it held itself would keep an outgrown arena alive."""
    assert states is None, "an arena's layer is written to by `update`"  # noqa: S101  # cannot happen


class ArenaCache(Cache):
    """A cache whose layers share one arena.

    Args:
        windows: each layer's sliding window in tokens, or None.
        capacity: tokens to allocate for at first.
        borrowing: layers that keep nothing.
        max_slots: upper bound on the slots of a row, if known.
        max_rows: row slots.
        allocate: where the memory comes from; see `KVArena`.
    """

    def __init__(
        self,
        windows: Sequence[int | None],
        capacity: int,
        borrowing: frozenset[int] = frozenset(),
        *,
        max_slots: int | None = None,
        max_rows: int = 1,
        allocate: Allocate | None = None,
    ) -> None:
        self.arena = KVArena(len(windows) - len(borrowing), capacity, max_slots, max_rows, allocate)
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
