"""Transformers' cache interface over Lookahead's arena."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from lookahead.decoding.attention.flat_rows import FlatRows
from lookahead.decoding.kv_arena import KVArena
from lookahead.decoding.kv_slab import Allocate
from lookahead.hf.compat.layout import empty_layer


class ArenaLayer(DynamicLayer):
    """One layer's keys and values, kept in the arena, which holds every token.

    In a tree's forward pass the layer returns all of them, and the mask hides what a node does not see.
    Otherwise a layer with a sliding window returns only what transformers' own layer would: in some models
    only the cache makes the window.
    """

    def __init__(self, arena: KVArena, layer: int, window: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # sets the layer to uninitialised
        self._arena = arena
        self._layer = layer
        self._window = window
        self.is_sliding = window is not None
        self.shows_all = False
        self.flat_rows: FlatRows | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values [B, heads, T, width]; return the visible ones.

        Where rows lie one after the other, [1, heads, N, width], all memory of the layer is returned.
        """
        if self.flat_rows is not None:
            memory = self._arena.memory(self._layer)
            self.flat_rows.write(memory[0], key_states)
            self.flat_rows.write(memory[1], value_states)
            return memory
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
        """The layer's keys, [B, heads, length, width]; None before the first token."""
        return self._arena.view(self._layer)[0] if self.is_initialized else None

    @keys.setter
    def keys(self, keys: Tensor | None) -> None:
        _only_none(keys)

    @property
    def values(self) -> Tensor | None:
        """The layer's values, [B, heads, length, value width]; None before the first token."""
        return self._arena.view(self._layer)[1] if self.is_initialized else None

    @values.setter
    def values(self, values: Tensor | None) -> None:
        _only_none(values)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many keys the next forward pass sees, and the slot of the first."""
        held = self.get_seq_length()
        hidden = 0 if self._window is None or self.shows_all else max(0, held - self._window + 1)
        return held - hidden + query_length, hidden

    def get_seq_length(self) -> int:
        """Return how many tokens the layer holds."""
        return self._arena.length(self._layer)


def _only_none(states: Tensor | None) -> None:
    """Check that a layer's tensors are only set to None: a stored view would keep an outgrown arena alive."""
    assert states is None, "write to an arena's layer with `update`"  # noqa: S101  # cannot happen


class ArenaCache(Cache):
    """A cache whose layers share one arena.

    Args:
        windows: Each layer's sliding window in tokens, or None.
        capacity: Initial slots per row.
        borrowing: Layers that keep nothing.
        max_slots: Upper bound on the slots of a row, if known.
        max_rows: Row slots.
        allocate: Allocates the memory; see `KVArena`.
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
            empty_layer() if layer in borrowing else ArenaLayer(self.arena, layer, window)
            for layer, window in enumerate(windows)
        ]
        super().__init__(layers=layers)
        self._of_arena = [layer for layer in layers if isinstance(layer, ArenaLayer)]

    def create(self, states: Tensor) -> None:
        """Create all layers, if there are none, for keys and values like `states`, [0, heads, 0, width]."""
        self.arena.create(states)
        for layer in self._of_arena:
            if not layer.is_initialized:
                layer.dtype, layer.device, layer.is_initialized = states.dtype, states.device, True

    def show_all(self, shows_all: bool) -> None:
        """Set whether layers return all tokens because the next forward pass's mask applies the windows."""
        for layer in self._of_arena:
            layer.shows_all = shows_all

    def lay_flat(self, rows: FlatRows | None) -> None:
        """Set the rows of forward passes from now on, if their nodes lie one after the other; else None."""
        for layer in self._of_arena:
            layer.flat_rows = rows
