"""The KV cache's memory: allocated ahead, appended in place, compacted in place.

A library cache that concatenates copies everything it holds at every step, and cannot keep a path out of
the middle. Here all layers of one shape lie in one tensor, so that appending writes only the new tokens,
and keeping the accepted path of a draft tree is one gather for the whole model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import torch
from torch import Tensor

BLOCK_SLOTS = 512
"""An arena grows by whole blocks: doubled, it would hold up to as much again that is never used."""

Allocate = Callable[[tuple[int, ...], Tensor], Tensor]
"""Returns memory [layers, B, heads, capacity, width] or of a larger capacity, like a tensor in all else."""


def fresh_memory(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return uninitialised memory of a shape, in the dtype and on the device of a tensor."""
    return like.new_empty(shape)


@dataclass(eq=False)
class _Slab:
    """Keys and values of all layers of one shape, dtype and device: [layers, B, heads, capacity, width]."""

    keys: Tensor
    values: Tensor
    allocate: Allocate
    layers: int = 0

    def resized(self, capacity: int, length: int) -> None:
        """Move to tensors of another capacity, keeping the first `length` slots of the layers in use."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            if old.shape[3] < capacity:
                new = self.allocate((*old.shape[:3], capacity, old.shape[4]), old)
                new[: self.layers, ..., :length, :] = old[: self.layers, ..., :length, :]
                setattr(self, name, new)

    def move(self, rows: Tensor, sources: Tensor, targets: Tensor) -> None:
        """Copy, in each layer and for each of `rows` [R, 1], slots `sources` [R, m] to `targets` [R, m]."""
        device = self.keys.device
        rows, sources, targets = (index.to(device, non_blocking=True) for index in (rows, sources, targets))
        for tensor in (self.keys, self.values):
            used = tensor[: self.layers].transpose(2, 3)  # [layers, B, capacity, heads, width]
            used[:, rows, targets] = used[:, rows, sources]

    def select(self, rows: Tensor, *, stays: bool) -> None:
        """Keep only some rows, moved together at the front of the same memory where it `stays`."""
        for name in ("keys", "values"):
            old: Tensor = getattr(self, name)
            chosen = old.index_select(1, rows.to(old.device))
            setattr(self, name, old[:, : len(rows)].copy_(chosen) if stays else chosen)


@dataclass(eq=False)
class KVArena:
    """Keys and values of a whole model, growing by appends and shrinking by keeping each row's path.

    What is appended begins at the same slot in all rows, behind the longest; a row that holds less has a
    gap before it until its path is kept.

    Args:
        layer_count: layers of the model; those whose tensors differ in shape share no tensor.
        capacity: tokens to allocate for; it grows by blocks of `BLOCK_SLOTS` when it does not suffice.
        largest: tokens that there will be at most, as far as is known: it does not grow beyond.
        allocate: where the memory comes from, if rows that leave must not move the others to new memory.
    """

    layer_count: int
    capacity: int
    largest: int | None = None
    allocate: Allocate | None = None
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
        self.extend(max(self._lengths.values()) + tokens)
        return slab.keys, slab.values

    def extend(self, end: int) -> None:
        """Count the slots up to `end` as held in all layers, to be written by whoever asked.

        Every layer must have been appended to.
        """
        if end > self.capacity:
            self._grow(end)
        self._lengths = dict.fromkeys(self._lengths, end)

    @property
    def addresses(self) -> tuple[int, ...]:
        """Where the memory is."""
        return tuple(part.data_ptr() for slab in self._slabs.values() for part in (slab.keys, slab.values))

    @property
    def room(self) -> int:
        """Slots that there is memory for in all layers."""
        return min(slab.keys.shape[3] for slab in self._slabs.values())

    def memory(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return all memory of a layer, held or not: keys and values [B, heads, capacity at least, width]."""
        slab, place = self._homes[layer]
        return slab.keys[place], slab.values[place]

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
            slab.select(torch.tensor(list(rows)), stays=self.allocate is not None)

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
        allocate = self.allocate or fresh_memory

        def allocated(like: Tensor) -> Tensor:
            return allocate((layers, *like.shape[:2], self.capacity, like.shape[3]), like)

        return _Slab(allocated(keys), allocated(values), allocate)

    def _grow(self, needed: int) -> None:
        if self._slabs and needed <= self.room:
            self.capacity = self.room
            return
        self.capacity = grown_capacity(needed, self.largest)
        held = max(self._lengths.values(), default=0)
        for slab in self._slabs.values():
            slab.resized(self.capacity, held)


def grown_capacity(needed: int, largest: int | None = None) -> int:
    """Return the slots of as many blocks as are needed, but no more than there will be at most."""
    blocks = -(-needed // BLOCK_SLOTS) * BLOCK_SLOTS
    return blocks if largest is None or largest < needed else min(blocks, largest)
