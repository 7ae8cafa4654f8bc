"""The KV cache's memory: allocated ahead, appended in place, compacted in place.

A library cache that concatenates copies everything it holds at every step, and cannot keep a path out of
the middle. Here all layers of one shape lie in one tensor, so that appending writes only the new tokens,
and keeping the accepted path of a draft tree is one gather for the whole model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import torch
from torch import Tensor


@dataclass(eq=False)
class _Slab:
    """Keys and values of all layers of one shape, dtype and device: [layers, B, heads, capacity, width]."""

    keys: Tensor
    values: Tensor
    layers: int = 0

    def resized(self, capacity: int, length: int) -> None:
        """Move to tensors of another capacity, keeping the first `length` slots of the layers in use."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty((*old.shape[:3], capacity, old.shape[4]))
            new[: self.layers, ..., :length, :] = old[: self.layers, ..., :length, :]
            setattr(self, name, new)

    def move(self, rows: Tensor, sources: Tensor, targets: Tensor) -> None:
        """Copy, in each layer and for each of `rows` [R, 1], slots `sources` [R, m] to `targets` [R, m]."""
        for tensor in (self.keys, self.values):
            device = tensor.device
            used = tensor[: self.layers].transpose(2, 3)  # [layers, B, capacity, heads, width]
            at = rows.to(device)
            used[:, at, targets.to(device)] = used[:, at, sources.to(device)]

    def select(self, rows: Tensor) -> None:
        """Keep only some rows."""
        self.keys = self.keys.index_select(1, rows.to(self.keys.device))
        self.values = self.values.index_select(1, rows.to(self.values.device))


@dataclass(eq=False)
class KVArena:
    """Keys and values of a whole model, growing by appends and shrinking by keeping each row's path.

    What is appended begins at the same slot in all rows, behind the longest; a row that holds less has a
    gap before it until its path is kept.

    Args:
        layer_count: layers of the model; those whose tensors differ in shape share no tensor.
        capacity: tokens to allocate for; doubled whenever it does not suffice.
        largest: tokens that there will be at most, as far as is known: it is not doubled beyond.
    """

    layer_count: int
    capacity: int
    largest: int | None = None
    _slabs: dict[tuple[object, ...], _Slab] = field(default_factory=dict, init=False)
    _homes: dict[int, tuple[_Slab, int]] = field(default_factory=dict, init=False)
    _lengths: dict[int, int] = field(default_factory=dict, init=False)

    def length(self, layer: int) -> int:
        """Return how many tokens a layer holds; 0 for one that has seen none."""
        return self._lengths.get(layer, 0)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write a layer's new keys and values behind the others, and return views of all of them.

        Args:
            layer: index of the layer.
            keys: [B, heads, T, key width].
            values: [B, heads, T, value width].

        Returns:
            Keys [B, heads, length, key width] and values [B, heads, length, value width].
        """
        start = self.length(layer)
        end = start + keys.shape[2]
        if end > self.capacity:
            self._grow(end)
        slab, place = self._home(layer, keys, values)
        layer_keys, layer_values = slab.keys[place], slab.values[place]
        layer_keys[:, :, start:end] = keys
        layer_values[:, :, start:end] = values
        self._lengths[layer] = end
        return layer_keys[:, :, :end], layer_values[:, :, :end]

    def claim(self, tokens: int) -> tuple[Tensor, Tensor] | None:
        """Make room for tokens behind the others in all layers, to be written by whoever asked.

        Returns:
            The memory of keys and of values, [layers, B, heads, capacity, width], whose layers are in order;
            None, and nothing is done, where they do not all lie in one.
        """
        if len(self._slabs) != 1 or len(self._homes) != self.layer_count:
            return None
        (slab,) = self._slabs.values()
        if any(self._homes[layer] != (slab, layer) for layer in range(self.layer_count)):
            return None
        end = max(self._lengths.values()) + tokens
        if end > self.capacity:
            self._grow(end)
        self._lengths = dict.fromkeys(self._lengths, end)
        return slab.keys, slab.values

    def keep(self, start: int, paths: Sequence[Sequence[int]], lengths: Sequence[int]) -> None:
        """Keep, of all slots from `start` on, only each row's path, moved behind what the row holds.

        Args:
            start: length before the trees were appended.
            paths: for each row, strictly increasing places in its tree, those of the accepted path.
            lengths: for each row, how many of the slots before `start` it holds, from the first on.
        """
        moves = [
            [(start + place, length + index) for index, place in enumerate(path)]
            for path, length in zip(paths, lengths, strict=True)
        ]
        # A row with a shorter path copies slot 0 to itself.
        columns = list(zip_longest(*moves, fillvalue=(0, 0)))
        in_place = 0  # the leading nodes of a chain are in their place already
        while in_place < len(columns) and all(source == target for source, target in columns[in_place]):
            in_place += 1
        if in_place < len(columns):
            self._move(torch.tensor(columns[in_place:]))
        self.truncate(max(length + len(path) for path, length in zip(paths, lengths, strict=True)))

    def select_rows(self, rows: Sequence[int]) -> None:
        """Keep only some rows, in this order."""
        for slab in self._slabs.values():
            slab.select(torch.tensor(list(rows)))

    def truncate(self, length: int) -> None:
        """Forget every token from `length` on."""
        for layer, held in self._lengths.items():
            self._lengths[layer] = min(held, length)

    def view(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return views of the keys and values that a layer holds."""
        slab, place = self._homes[layer]
        end = self.length(layer)
        return slab.keys[place][:, :, :end], slab.values[place][:, :, :end]

    def _move(self, columns: Tensor) -> None:
        """Copy slots, int64 [m, B, 2]: sources and targets."""
        sources, targets = columns.permute(2, 1, 0)
        rows = torch.arange(len(sources))[:, None]
        for slab in self._slabs.values():
            slab.move(rows, sources, targets)

    def _home(self, layer: int, keys: Tensor, values: Tensor) -> tuple[_Slab, int]:
        if layer not in self._homes:
            shape = (*keys.shape[:2], keys.shape[3], *values.shape[:2], values.shape[3])
            kind = (shape, keys.dtype, values.dtype, keys.device, values.device)
            if kind not in self._slabs:
                self._slabs[kind] = self._new_slab(keys, values)
            slab = self._slabs[kind]
            self._homes[layer] = (slab, slab.layers)
            slab.layers += 1
        return self._homes[layer]

    def _new_slab(self, keys: Tensor, values: Tensor) -> _Slab:
        layers = self.layer_count - len(self._homes)

        def allocated(like: Tensor) -> Tensor:
            return like.new_empty((layers, *like.shape[:2], self.capacity, like.shape[3]))

        return _Slab(allocated(keys), allocated(values))

    def _grow(self, needed: int) -> None:
        doubled = 2 * self.capacity if self.largest is None else min(2 * self.capacity, self.largest)
        self.capacity = max(needed, doubled)
        held = max(self._lengths.values(), default=0)
        for slab in self._slabs.values():
            slab.resized(self.capacity, held)
