"""The KV cache's memory: row slots that requests take and give back, appended to and compacted in place.

The library's cache concatenates. It copies all its contents at every step, and it cannot keep a path from
the middle. Here all layers of one shape lie in one tensor. Appending writes only the new tokens. Keeping the
accepted path of a draft tree is one indexed copy for keys and one for values, for all layers of one shape.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lookahead.decoding.kv_slab import Allocate, PendingMoves, Slab, uninitialised, zeros

GROWTH_SLOTS = 512
"""When a row outgrows the arena, the arena is copied to one whose capacity is the next multiple of this.

Doubling could leave half of it unused.
"""


@dataclass(eq=False)
class KVArena:
    """Keys and values of a whole model, in row slots.

    A request takes a row slot (`add_row`) and gives it back (`remove_row`); neither copies anything.
    `set_active_rows` chooses the rows of the next forward passes. `append` writes new tokens directly after
    each row's own text. `keep` then keeps only each row's path:

        row slot 0   a b c d | 0 1 2      append a tree of three nodes after 4 tokens
        row slot 1   (free)
        row slot 2   e f | 0 1 2          … and after 2 tokens
        keep {0: [0, 2], 2: [0]}
        row slot 0   a b c d 0 2          node 2 moves to where node 1 was
        row slot 2   e f 0

    Args:
        layer_count: Layers of the model; layers whose tensors differ in shape share no tensor.
        capacity: Slots of each row to allocate for; the arena grows to multiples of `GROWTH_SLOTS`.
        max_slots: Upper bound on the slots of a row, if known.
        max_rows: Row slots; memory is allocated for those that are in use, up to a power of two.
        allocate: Allocates the memory, if its addresses must repeat from call to call.
    """

    layer_count: int
    capacity: int
    max_slots: int | None = None
    max_rows: int = 1
    allocate: Allocate | None = None
    lengths: list[int] = field(init=False)
    """Slots of each row that hold kept tokens."""
    moves: PendingMoves = field(init=False)
    """Kept paths that have not moved yet."""
    _free: list[int] = field(init=False)
    _written_ends: list[int] = field(init=False)  # slots of each row that were ever written
    _active: list[int] = field(default_factory=list, init=False)
    _slabs: dict[tuple[object, ...], Slab] = field(default_factory=dict, init=False)
    _slab_of_layer: dict[int, tuple[Slab, int]] = field(default_factory=dict, init=False)
    _appended: dict[int, int] = field(default_factory=dict, init=False)
    _targets: tuple[object, Tensor, Tensor] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.lengths, self._written_ends = [0] * self.max_rows, [0] * self.max_rows
        self._free = list(range(self.max_rows))
        self.moves = PendingMoves(self._slabs)

    def add_row(self) -> int:
        """Take the lowest free row slot and return it.

        Raises:
            IndexError: All row slots are taken.
        """
        if not self._free:
            message = f"all {self.max_rows} row slots are taken; remove a row first"
            raise IndexError(message)
        return heapq.heappop(self._free)

    def remove_row(self, row: int) -> None:
        """Give a row slot back; its tokens are forgotten and nothing is moved.

        The row's memory is set to zero, because masked memory must not hold NaN when a later row uses it.

        Raises:
            ValueError: The row slot is free.
        """
        if row in self._free:
            message = f"row slot {row} is free; {self.max_rows - len(self._free)} others are taken"
            raise ValueError(message)
        self.moves.apply()
        self.lengths[row] = 0
        self._erase_after_text(row)
        self._active = [active for active in self._active if active != row]
        heapq.heappush(self._free, row)

    def move_row(self, row: int, target: int) -> None:
        """Move a row to a free row slot, and give its own back."""
        self.moves.apply()
        self._free.remove(target)
        heapq.heapify(self._free)
        length = self.lengths[row]
        for slab in self._slabs.values() if length else ():
            for memory in (slab.keys, slab.values):
                memory[:, target, :, :length] = memory[:, row, :, :length]
        self.lengths[target] = self._written_ends[target] = length
        self.remove_row(row)

    @property
    def lowest_free_row(self) -> int:
        """The lowest free row slot; `max_rows` if all are taken."""
        return self._free[0] if self._free else self.max_rows

    def must_grow(self, appended: int) -> bool:
        """Return whether `appended` slots after the longest row do not fit into what is allocated."""
        return bool(self._slabs) and max(self.lengths) + appended > self.capacity

    def set_active_rows(self, rows: Sequence[int]) -> None:
        """Choose the row slots of the next forward passes, and forget appended tokens that were not kept."""
        self._active = list(rows)
        self._appended.clear()

    @property
    def active(self) -> Sequence[int]:
        """The row slots of the next forward passes, in order."""
        return self._active

    @property
    def longest_length(self) -> int:
        """Slots that the longest active row holds."""
        return max((self.lengths[row] for row in self._active), default=0)

    def length(self, layer: int) -> int:
        """Return how many slots the longest active row holds in a layer, what was just appended included."""
        return self.longest_length + self._appended.get(layer, 0) if layer in self._slab_of_layer else 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write a layer's new keys and values after each active row's text; return what those rows hold.

        Args:
            layer: Index of the layer.
            keys: [B, heads, T, key width], B the active rows in order.
            values: [B, heads, T, value width].

        Returns:
            Keys [B, heads, length, key width] and values [B, heads, length, value width], up to the end of
            the longest row: views where the rows are neighbours, else copies.
        """
        self.moves.apply()
        size, before = keys.shape[2], self._appended.get(layer, 0)
        self._reserve(before + size)
        slab, layer_index = self._find_slab(layer, keys, values)
        wider = torch.promote_types(slab.keys.dtype, keys.dtype)
        if wider != slab.keys.dtype:  # the model was converted in the course of a call
            slab.promote(wider)
        self._appended[layer] = before + size
        return (
            self._written(slab.keys[layer_index], keys, before),
            self._written(slab.values[layer_index], values, before),
        )

    def create(self, states: Tensor) -> None:
        """Create all layers, if there are none, for keys and values like `states`, [0, heads, 0, width]."""
        if not self._slabs:
            for layer in range(self.layer_count):
                self._find_slab(layer, states, states)

    def pad(self, paddings: Mapping[int, int]) -> None:
        """Append padding to rows, by row slot: slots that hold zeros in all layers."""
        self.moves.apply()
        self.set_active_rows(list(paddings))
        self._reserve(max(paddings.values(), default=0))
        for row, slots in paddings.items():
            if slots > 0:
                begin = self.lengths[row]
                self.lengths[row] += slots
                for slab in self._slabs.values():
                    for part in (slab.keys, slab.values):
                        part[:, row, :, begin : begin + slots] = 0

    def claim_for_writing(
        self, tokens: int, by_row: Mapping[int, int] | None = None
    ) -> tuple[Tensor, Tensor] | None:
        """Make room for `tokens` tokens after each active row in all layers, for the caller to write.

        Args:
            tokens: The most tokens of a row.
            by_row: How many of them each row slot gets; all get the same number if not given.

        Returns:
            The memory of keys and of values, [layers, rows, heads, capacity, width], its layers in order;
            None, with nothing done, if the layers do not all lie in one tensor.
        """
        if len(self._slabs) != 1 or len(self._slab_of_layer) != self.layer_count:
            return None
        (slab,) = self._slabs.values()
        if any(self._slab_of_layer[layer] != (slab, layer) for layer in range(self.layer_count)):
            return None
        self.moves.apply()
        self._reserve(tokens, by_row)
        self._appended = dict.fromkeys(self._slab_of_layer, tokens)
        # If memory ran out in between, only the keys have grown: both must have one layout here.
        slab.resize(slab.keys.shape[1], slab.keys.shape[3], max(self.lengths))
        return slab.keys, slab.values

    def count_appended(self, tokens: int) -> None:
        """Count `tokens` slots after each active row as appended in all layers, for the caller to write.

        Every layer must have been appended to before.
        """
        self._reserve(tokens)
        self._appended = dict.fromkeys(self._slab_of_layer, tokens)

    def make_room(self, by_row: Mapping[int, int]) -> bool:
        """Make room in `memory` after each active row's text; return whether it has all layers."""
        if len(self._slab_of_layer) < self.layer_count:
            return False
        self.moves.apply()
        self._reserve(max(by_row.values()), by_row)
        return True

    @property
    def addresses(self) -> tuple[int, ...]:
        """The addresses of the memory."""
        return tuple(part.data_ptr() for part in self._parts)

    @property
    def room(self) -> int:
        """Slots per row that are allocated in all layers."""
        return min(part.shape[3] for part in self._parts)

    def memory(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return all memory of a layer: keys and values [rows, heads, capacity at least, width]."""
        slab, layer_index = self._slab_of_layer[layer]
        return slab.keys[layer_index], slab.values[layer_index]

    def view(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return the keys and values that the active rows hold in a layer, [B, heads, length, width]."""
        self.moves.apply()
        self._reserve(0)
        keys, values = self.memory(layer)
        end = self.length(layer)
        return self._of_active(keys[:, :, :end]), self._of_active(values[:, :, :end])

    def keep_first(self, tokens: int | None = None) -> None:
        """Keep the first `tokens` appended tokens of every active row; all if None."""
        kept = max(self._appended.values(), default=0) if tokens is None else tokens
        for row in self._active:
            self.lengths[row] += kept
        self._appended = {layer: count - kept for layer, count in self._appended.items()}

    def keep(self, paths: Mapping[int, Sequence[int]]) -> None:
        """Keep only each row's path of the appended tokens, moved directly after the row's text.

        Args:
            paths: By row slot, strictly increasing node numbers of the accepted path. Rows that are left out
                keep nothing. Where the path is empty, all memory after the row's text is set to zero: the
                step is taken back, and what it wrote may be NaN.
        """
        self.moves.apply()
        for row, path in paths.items():
            self.moves.add(row, self.lengths[row], path)
            self.lengths[row] += len(path)
            if not path:
                self._erase_after_text(row)
        if not self.moves.are_deferred:
            self.moves.apply()
        self._appended.clear()

    def _erase_after_text(self, row: int) -> None:
        """Set what was written after a row's text to zero."""
        begin, end = self.lengths[row], self._written_ends[row]
        for slab in self._slabs.values():
            if row < slab.keys.shape[1]:
                slab.keys[:, row, :, begin:end] = 0
                slab.values[:, row, :, begin:end] = 0
        self._written_ends[row] = begin

    def copy_text(self, row: int, begin: int, end: int) -> list[Tensor]:
        """Return copies of a row's slots: for each tensor of keys or values [layers, heads, slots, width]."""
        self.moves.apply()
        return [part[:, row, :, begin:end].clone() for part in self._parts]

    def append_text(self, row: int, copies: Sequence[list[Tensor]]) -> None:
        """Append what `copy_text` returned, one after the other, to a row."""
        self.moves.apply()
        tokens = sum(copy[0].shape[2] for copy in copies)
        self.set_active_rows([row])
        self._reserve(tokens)
        for copy in copies:
            begin, end = self.lengths[row], self.lengths[row] + copy[0].shape[2]
            for part, states in zip(self._parts, copy, strict=True):
                part[:, row, :, begin:end] = states
            self.lengths[row] = end

    @property
    def bytes_per_token(self) -> int:
        """Bytes of the keys and values of one token in all layers; 0 before the first token."""
        return sum(part[:, 0, :, 0].numel() * part.element_size() for part in self._parts)

    @property
    def _parts(self) -> list[Tensor]:
        """The memory of keys and of values, [layers, rows, heads, capacity, width], of each slab."""
        return [part for slab in self._slabs.values() for part in (slab.keys, slab.values)]

    def clear(self) -> None:
        """Forget all tokens of the active rows."""
        for row in self._active:
            self.lengths[row] = 0
        self._appended.clear()

    def _written(self, memory: Tensor, states: Tensor, before: int) -> Tensor:
        """Write states [B, heads, T, width] to memory [rows, heads, capacity, width]; return what is held."""
        size = states.shape[2]
        starts = [self.lengths[row] + before for row in self._active]
        first, end = self._active[0], max(starts) + size
        if self._are_neighbours and len(set(starts)) == 1:
            memory[first : first + len(starts), :, starts[0] : end] = states
        else:
            rows, slots = self._target_slots(starts, size, memory.device)
            memory.transpose(1, 2)[rows, slots] = states.transpose(1, 2).to(memory.dtype)
        return self._of_active(memory[:, :, :end])

    def _target_slots(self, starts: list[int], size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return row slots [B, 1] and slots [B, size] to write to; all layers of a step share them."""
        key = (tuple(self._active), tuple(starts), size, device)
        if self._targets is None or self._targets[0] != key:
            rows = torch.tensor(self._active, device=device)[:, None]
            begin = torch.tensor(starts, device=device)[:, None]
            self._targets = (key, rows, begin + torch.arange(size, device=device))
        return self._targets[1:]

    @property
    def _are_neighbours(self) -> bool:
        return self._active == list(range(self._active[0], self._active[0] + len(self._active)))

    def _of_active(self, memory: Tensor) -> Tensor:
        """Return the active rows of memory [rows, …]: a view where they are neighbours."""
        if self._are_neighbours:
            return memory[self._active[0] : self._active[0] + len(self._active)]
        return memory.index_select(0, torch.tensor(self._active, device=memory.device))

    def _find_slab(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Slab, int]:
        """Return the slab of a layer and the layer's index there; both are assigned at its first use."""
        if layer not in self._slab_of_layer:
            shape = (keys.shape[1], keys.shape[3], values.shape[1], values.shape[3])
            kind = (shape, keys.dtype, values.dtype, keys.device, values.device)
            if kind not in self._slabs:
                self._slabs[kind] = self._new_slab(keys, values)
            slab = self._slabs[kind]
            self._slab_of_layer[layer] = (slab, slab.layers)
            slab.layers += 1
        return self._slab_of_layer[layer]

    def _new_slab(self, keys: Tensor, values: Tensor) -> Slab:
        layers = self.layer_count - len(self._slab_of_layer)
        # Attention reads every row up to the end of the longest one. Masked memory there must not hold NaN.
        allocate = self.allocate or (zeros if self.max_rows > 1 else uninitialised)
        parts = [
            allocate((layers, self._used_rows, like.shape[1], self.capacity, like.shape[3]), like)
            for like in (keys, values)
        ]
        return Slab(parts[0], parts[1], allocate)

    def _reserve(self, appended: int, by_row: Mapping[int, int] | None = None) -> None:
        """Make sure that `appended` slots after each active row are allocated, or as many as `by_row` says.

        If memory runs out, nothing is promised that was not allocated: the same call may be tried again.
        """
        ends = {
            row: self.lengths[row] + (appended if by_row is None else by_row[row]) for row in self._active
        }
        needed, rows = max(ends.values(), default=0), max(self._active, default=0) + 1
        parts, capacity = self._parts, self.capacity
        if needed > capacity and self._slabs and needed <= self.room:
            capacity = self.room
        has_rows = all(part.shape[1] >= rows for part in parts)
        if needed > capacity or not has_rows:
            if needed > capacity:
                capacity = grown_capacity(needed, self.max_slots)
            self.moves.apply()
            held = max(self.lengths) + max(self._appended.values(), default=0)
            for slab in self._slabs.values():
                slab.resize(self._used_rows, capacity, held)
        self.capacity = capacity
        for row, end in ends.items():
            self._written_ends[row] = max(self._written_ends[row], end)

    @property
    def _used_rows(self) -> int:
        """Row slots to allocate: up to the highest one that is taken or active, a power of two of them."""
        taken = set(range(self.max_rows)) - set(self._free)
        highest = max(taken | set(self._active), default=0)
        return min(self.max_rows, 1 << highest.bit_length())


def grown_capacity(needed: int, max_slots: int | None = None) -> int:
    """Return the slots of the blocks that are needed, but not more than the upper bound."""
    blocks = -(-needed // GROWTH_SLOTS) * GROWTH_SLOTS
    return blocks if max_slots is None or max_slots < needed else min(blocks, max_slots)
