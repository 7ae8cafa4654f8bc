"""Steps captured in CUDA graphs: one launch per step, not one per kernel.

The model is not changed: a graph records the kernels of its own forward pass. It cannot repeat other work
(hooks, code that reads values or the cache's length), so a model that does other work runs without graphs.
"""

import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import chain
from threading import Lock
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from lookahead.backends.cuda.graphs import (
    Capture,
    CudaCapture,
    NoCapture,
    PackedTrees,
    StaticStep,
    StepMemory,
    Verified,
    context_slots,
    node_bucket,
)
from lookahead.decoding.kv_slab import Allocate
from lookahead.errors import first_line
from lookahead.hf.attention.grouped_query import attend_by_grouped_queries, with_repeated_rows
from lookahead.hf.cache.arena_cache import ArenaCache, ArenaLayer
from lookahead.hf.compat.changes import TemporaryChanges
from lookahead.hf.compat.fingerprint.watch import Fingerprint
from lookahead.hf.compat.layout import empty_layer
from lookahead.hf.compat.modifications import modifications
from lookahead.hf.compat.traits import ModelTraits
from lookahead.hf.steps.eager import EagerRunner
from lookahead.hf.steps.runner import StepBatch, StepLogits
from lookahead.hf.steps.verification import VerificationMode

_ROUNDING_FACTOR = 32.0
_RELATIVE_FLOOR = 1e-4
"""Tolerance between the first captured steps and the eager runner's.

The probe allows the same between a chain and single steps.
"""
_MAX_DISAGREEMENTS = 3


class _NotStaticError(Exception):
    """A step depends on something that changes from step to step; the message names it."""


def capture_for(device: torch.device, lock: AbstractContextManager[Any]) -> Capture | None:
    """Return what captures steps on a device, one at a time under a lock; None if no graphs exist there."""
    return CudaCapture(device, lock) if device.type == "cuda" else None


def unsupported_reason(model: PreTrainedModel, traits: ModelTraits) -> str:
    """Return why a model's steps cannot be captured, in words; empty if capturing them should be tried."""
    limits = traits.limits
    if not traits.is_library_code or not traits.takes_positions or traits.has_cross_attention:
        return "its code may count the cache's slots, or has layers that keep no text"
    if limits.rope_switch is not None or limits.rope_growth is not None or limits.counts_slots_somewhere:
        return "its layers depend on the length of the cache"
    if any(part.device != model.device for part in chain(model.parameters(), model.buffers())):
        return "it is spread over devices"
    return modifications(model)


class CapturedModels:
    """The captured steps of models, kept from call to call."""

    def __init__(self) -> None:
        self._models: WeakKeyDictionary[PreTrainedModel, _CapturedModel] = WeakKeyDictionary()
        self._lock = Lock()

    def runner_for_call(self, eager: EagerRunner) -> "GraphRunner | None":
        """Return the runner for one call, to be closed after it; None if its steps cannot be captured.

        Args:
            eager: Does the same steps by the model's own code.
        """
        model, verification = eager.model, eager.verification
        is_served_otherwise = verification.is_compiled or verification.fixed_width is not None
        if verification.mode is not VerificationMode.TREE or is_served_otherwise or eager.traits.bias:
            return None
        if capture_for(model.device, self._lock) is None or unsupported_reason(model, eager.traits):
            return None
        with self._lock:
            found = self._models.get(model)
            key = _key_of(eager)
            if found is None or found.key != key:
                found = self._models[model] = _CapturedModel(
                    key, partial(capture_for, model.device, self._lock)
                )
        return None if found.is_given_up else GraphRunner(eager, found)


class _CapturedModel:
    """State kept for a model between calls, valid while the addresses of its weights stay the same.

    Args:
        key: What its steps depend on besides their shapes.
        new_capture: Returns what captures them, a new one for each `StepMemory`.
    """

    def __init__(self, key: object, new_capture: Callable[[], Capture | None]) -> None:
        self.key = key
        self._new_capture = new_capture
        self.is_given_up = False
        self.agreed: set[bool] = set()
        self.disagreements = 0
        self._free: StepMemory | None = None
        self._lock = Lock()

    def borrow(self) -> StepMemory:
        """Return memory that no other call is using."""
        with self._lock:
            memory, self._free = self._free, None
        if memory is None:
            memory = StepMemory(self._new_capture() or NoCapture())
        memory.begin()
        return memory

    def give_back(self, memory: StepMemory) -> None:
        """Keep memory for the next call; of concurrent calls, only the last one's is kept."""
        with self._lock:
            self._free = None if self.is_given_up else memory


class GraphRunner:
    """The steps of one call, captured in CUDA graphs, each shape when it is used for the second time.

    Args:
        eager: Does the same steps by the model's own code; the first captured steps are compared with it.
        kept: What is kept of the model from call to call.
    """

    def __init__(self, eager: EagerRunner, kept: _CapturedModel) -> None:
        self._eager = eager
        self._model = eager.model
        self._kept = kept
        self._memory = kept.borrow()

    def is_of_model(self) -> bool:
        """Return whether the captured steps are those of the model as it is now."""
        return self._kept.key == _key_of(self._eager)

    @property
    def allocate(self) -> Allocate:
        """Allocates the cache's memory."""
        return self._memory.allocate

    def run(self, batch: StepBatch) -> StepLogits | None:
        """Verify trees of at most 64 nodes; None if the eager runner must serve this batch.

        The graph covers the arena's first row slots, a power of two of them, so that rows may be added and
        removed without another capture.
        """
        nodes = node_bucket(batch.width)
        if nodes is None or self._kept.is_given_up or not batch.is_padded_left or batch.rows[0].types:
            return None
        if any(row.shift is not None and row.shift.ndim for row in batch.rows):  # positions of several axes
            return None
        arena = batch.cache.arena
        slots = [row.slot for row in batch.rows]
        padded = batch.over_slots(min(arena.max_rows, 1 << max(slots).bit_length()))
        try:
            verified = self._verified(batch, padded, nodes)
        except Exception as problem:  # noqa: BLE001  # whatever a model's code raises, the eager runner serves
            self._give_up(problem)
            verified = None
        if verified is None:
            arena.set_active_rows(slots)
            return None
        logits, argmax = verified
        return StepLogits(logits, slots, argmax)

    def read(self, batch: StepBatch, logits_of: Sequence[int]) -> None:  # the protocol's
        """Return None: no two parts of prompts need to have one shape, so none is captured."""

    def close(self) -> None:
        """Return the memory for the next call."""
        self._kept.give_back(self._memory)

    def _verified(self, batch: StepBatch, padded: StepBatch, nodes: int) -> Verified | None:
        """Return logits and argmax of the padded batch; None if they disagree with the eager runner's."""
        arena = batch.cache.arena
        arena.count_appended(nodes)
        step = self._step(padded, nodes)
        is_repeated = step.is_repeated
        expected = None
        if is_repeated not in self._kept.agreed:
            arena.set_active_rows([row.slot for row in batch.rows])
            expected = self._eager.forward(batch, batch.width)
            arena.set_active_rows([row.slot for row in padded.rows])
            arena.count_appended(nodes)
        tokens, positions = padded.tokens(nodes), padded.positions(nodes)
        verified = step(self._memory.capture, tokens, positions, padded.tree_rows)
        if expected is None:
            return verified
        actual = verified[0][[row.slot for row in batch.rows]]
        return verified if self._agrees(actual, expected, batch, is_repeated=is_repeated) else None

    def _step(self, padded: StepBatch, nodes: int) -> StaticStep:
        """Return the step of this shape over this cache."""
        arena, rows = padded.cache.arena, len(padded.rows)
        slots = min(context_slots(arena.longest_length + nodes), arena.room)
        key = (rows, nodes, slots, arena.addresses)
        steps = self._memory.steps
        if key not in steps:
            cache = _BucketCache(padded.cache, rows, slots)
            run = _run_of(self._eager, cache, slots)
            steps[key] = StaticStep(run, rows, nodes, self._model.device)
        return steps[key]

    def _agrees(self, logits: Tensor, expected: Tensor, batch: StepBatch, *, is_repeated: bool) -> bool:
        """Return, and record, whether a step's logits agree with those of the eager runner.

        A few disagreements are allowed: in half precision, rounding may choose other experts.

        Raises:
            _NotStaticError: There were too many disagreements.
        """
        nodes = [len(tree) for tree in batch.trees]
        actual, wanted = (
            torch.cat([of_row[:size] for of_row, size in zip(part, nodes, strict=True)]).float()
            for part in (logits, expected)
        )
        spread = float(wanted[wanted.isfinite()].std())
        worst = float((actual - wanted).abs().where(actual != wanted, 0.0).max())
        allowed = max(_RELATIVE_FLOOR, _ROUNDING_FACTOR * torch.finfo(logits.dtype).eps) * spread
        if worst <= allowed:
            self._kept.agreed.add(is_repeated)
            return True
        self._kept.disagreements += 1
        if self._kept.disagreements >= _MAX_DISAGREEMENTS:
            message = f"logits differ from its own code's by {worst:.3g}, more than rounding ({allowed:.3g})"
            raise _NotStaticError(message)
        return False

    def _give_up(self, problem: Exception) -> None:
        """Stop capturing this model's steps, with a warning that says why."""
        self._kept.is_given_up = True
        self._memory.steps.clear()
        reason = first_line(problem)
        if not isinstance(problem, _NotStaticError):
            reason = f"{type(problem).__name__}: {reason}"
        name = type(self._model).__name__
        warnings.warn(f"{name}'s steps are not captured in CUDA graphs: {reason}", stacklevel=2)


class _BucketLayer(DynamicLayer):
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
        raise _NotStaticError(message)

    def get_seq_length(self) -> NoReturn:
        """Raise: the graph would record the answer as a constant."""
        message = "it reads the cache's length, which changes from step to step"
        raise _NotStaticError(message)


class _BucketCache(Cache):
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
                layers.append(_BucketLayer(keys, values, is_sliding=layer.is_sliding))
            else:
                layers.append(empty_layer())
        super().__init__(layers=layers)

    def write_at(self, slots: Tensor) -> None:
        """Set the slots of the next tokens, int64 [rows, n]."""
        for layer in self.layers:
            if isinstance(layer, _BucketLayer):
                layer.slots = slots


def _run_of(eager: EagerRunner, cache: _BucketCache, slots: int) -> Callable[[PackedTrees], Verified]:
    """Return a model's forward pass as a function of only the packed trees."""
    groups_queries = eager.verification.groups_queries
    groups = eager.traits.query_groups if groups_queries else 1
    layout, dtype = eager.layout, eager.traits.dtype
    reference = weakref.ref(eager.model)  # captured steps must not keep the model alive

    def run(trees: PackedTrees) -> Verified:
        model = reference()
        assert model is not None, "its steps are dropped with it"  # noqa: S101  # cannot happen
        masks = {
            name: with_repeated_rows(
                trees.mask(slots, dtype, window=window, chunk=layout.chunks.get(name)), groups
            )
            for name, window in layout.windows.items()
        }
        cache.write_at(trees.slots)
        changes = TemporaryChanges()
        with changes, changes:
            if groups_queries:
                attend_by_grouped_queries(model, changes)
            outputs = model(
                input_ids=trees.tokens,
                position_ids=trees.positions,
                attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
                past_key_values=cache,
                use_cache=True,
                return_dict=True,
            )
        logits: Tensor = outputs.logits
        return logits, logits.argmax(dim=-1)

    return run


def _key_of(eager: EagerRunner) -> object:
    """Return what captured steps depend on besides their shapes and the numbers in the weights."""
    return (Fingerprint.of(eager.model), eager.traits.key, eager.verification)
