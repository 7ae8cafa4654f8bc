"""Models whose steps are captured in CUDA graphs: a step is then one launch, not one for each kernel.

Nothing of the model is changed: what is captured are the kernels of its own forward. What that does beside
launching kernels (hooks, code that looks at values or at the cache's length) a graph cannot repeat: such a
model's steps stay as they are.
"""

import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
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
from lookahead.decoding.arena import Allocate
from lookahead.decoding.attention.visibility import TreeRow
from lookahead.hf.attention.grouped_query import (
    attention_name,
    grouped_query_attention,
    query_groups,
    with_repeated_rows,
)
from lookahead.hf.cache.arena_cache import ArenaCache, ArenaLayer
from lookahead.hf.compat.layout import AttentionLayout, keeping_nothing
from lookahead.hf.compat.limits import DraftLimits
from lookahead.hf.compat.traits import is_the_librarys, looks_across, takes_positions
from lookahead.hf.steps.verification import ModelMode, Verification

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_parametrizations")
_HOOKS_OF_ALL = ("_global_forward_hooks", "_global_forward_pre_hooks")
_ROUNDING_FACTOR = 32.0
_RELATIVE_FLOOR = 1e-4
"""The first steps may differ from the model's own forward as a chain may from single steps (`probe`)."""
_MAX_DISAGREEMENTS = 3


class _NotStaticError(Exception):
    """A step depends on something that changes from one to the next; the message says on what."""


def capture_for(device: torch.device, lock: AbstractContextManager[Any]) -> Capture | None:
    """Return what captures steps on a device, one at a time under a lock; None where nothing can."""
    return CudaCapture(device, lock) if device.type == "cuda" else None


def why_not_captured(model: PreTrainedModel) -> str:
    """Return why a model's steps cannot be captured, in words; empty where that is worth trying."""
    limits = DraftLimits.of(model)
    if not is_the_librarys(model) or not takes_positions(model) or looks_across(model):
        return "its code may count the cache's slots, or has layers that keep no text"
    if limits.rope_switch is not None or limits.rope_growth is not None or limits.counts_slots_somewhere:
        return "its layers depend on the length of the cache"
    if getattr(model, "_compiled_call_impl", None) is not None or torch.is_autocast_enabled(
        model.device.type
    ):
        return "it is compiled or computes in mixed precision"
    if any(part.device != model.device for part in chain(model.parameters(), model.buffers())):
        return "it is spread over devices"
    for name, module in model.named_modules():
        if "forward" in vars(module) or any(getattr(module, hooks, None) for hooks in _HOOKS):
            return f"its {name} has a hook"
    return ""


class CapturedModels:
    """The captured steps of models, kept from call to call."""

    def __init__(self) -> None:
        self._models: WeakKeyDictionary[PreTrainedModel, _CapturedModel] = WeakKeyDictionary()
        self._lock = Lock()

    def of_call(
        self, model: PreTrainedModel, layout: AttentionLayout, verification: Verification
    ) -> "CapturedSteps | None":
        """Return the captured steps for one call, to be closed after it; None where there can be none."""
        is_another_way = verification.is_fused or verification.shape is not None
        if verification.mode is not ModelMode.TREE or is_another_way:
            return None
        if capture_for(model.device, self._lock) is None or why_not_captured(model):
            return None
        with self._lock:
            found = self._models.get(model)
            key = (_signature(model), verification)
            if found is None or found.key != key:
                found = self._models[model] = _CapturedModel(
                    key, partial(capture_for, model.device, self._lock)
                )
        return None if found.is_given_up else CapturedSteps(model, layout, verification, found)


class _CapturedModel:
    """What is kept of a model as long as its weights stay where they are.

    Args:
        key: what its steps depend on beside their shapes.
        new_capture: returns what captures them, another one for each memory.
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
        """Return memory that no other call uses."""
        with self._lock:
            memory, self._free = self._free, None
        if memory is None:
            memory = StepMemory(self._new_capture() or NoCapture())
        memory.begin()
        return memory

    def give_back(self, memory: StepMemory) -> None:
        """Keep memory for the next call; of several calls at a time, the last one's."""
        with self._lock:
            self._free = None if self.is_given_up else memory


class CapturedSteps:
    """The steps of one call.

    Args:
        model: one that `why_not_captured` has nothing to say against.
        layout: how its layers see the past.
        verification: how its drafts are verified.
        kept: what is kept of the model from call to call.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        layout: AttentionLayout,
        verification: Verification,
        kept: _CapturedModel,
    ) -> None:
        self._model = model
        self._layout = layout
        self._folds = verification.folds
        self._kept = kept
        self._memory = kept.borrow()

    @property
    def allocate(self) -> Allocate:
        """Where the cache's memory comes from."""
        return self._memory.allocate

    def forward(
        self,
        described: Callable[[int], tuple[Tensor, Tensor]],
        rows: Sequence[TreeRow],
        start: int,
        cache: ArenaCache,
        eager_forward: Callable[[], Tensor],
    ) -> Verified | tuple[None, None]:
        """Verify draft trees behind a cache and append them to it.

        Args:
            described: returns the trees' tokens and positions, int64 [B, n], for so many nodes.
            rows: B trees.
            start: the slot of node 0 in all rows.
            cache: holds what stands before the trees.
            eager_forward: does the same by the model's own forward; asked to compare the first steps with.

        Returns:
            Logits [B, n, V] and each node's likeliest token, n the largest tree's nodes or more; None twice,
            and nothing has been done, where a step of this kind is not captured.
        """
        nodes = node_bucket(max(len(row.tree) for row in rows))
        if nodes is None or self._kept.is_given_up or not all(row.is_padded_left for row in rows):
            return None, None
        tokens, positions = described(nodes)
        if positions.ndim != 2:
            return None, None
        try:
            verified = self._verified(tokens, positions, rows, start, cache, eager_forward)
        except Exception as problem:  # noqa: BLE001  # whatever a model's code raises, its own forward serves
            self._give_up(problem)
            verified = None
        if verified is None:
            cache.arena.truncate(start)
            return None, None
        return verified

    def _verified(
        self,
        tokens: Tensor,
        positions: Tensor,
        rows: Sequence[TreeRow],
        start: int,
        cache: ArenaCache,
        eager_forward: Callable[[], Tensor],
    ) -> Verified | None:
        """Return what `forward` returns; None where it is not what the model's own forward says."""
        batch, nodes = tokens.shape
        cache.arena.extend(start + nodes)
        step = self._step(batch, nodes, start, cache)
        is_repeated = step.is_repeated
        if is_repeated in self._kept.agreed:
            return step(self._memory.capture, tokens, positions, rows, start)
        cache.arena.truncate(start)
        expected = eager_forward()
        cache.arena.truncate(start)
        cache.arena.extend(start + nodes)
        verified = step(self._memory.capture, tokens, positions, rows, start)
        agrees = self._agrees(verified[0], expected, rows, is_repeated=is_repeated)
        return verified if agrees else None

    def close(self) -> None:
        """Leave the memory to the next call."""
        self._kept.give_back(self._memory)

    def _step(self, rows: int, nodes: int, start: int, cache: ArenaCache) -> StaticStep:
        """Return the step of this shape behind this cache."""
        slots = min(context_slots(start + nodes), cache.arena.room)
        key = (rows, nodes, slots, cache.arena.addresses)
        steps = self._memory.steps
        if key not in steps:
            run = _run_of(
                self._model, self._layout, _BucketCache(cache, rows, slots), slots, folds=self._folds
            )
            steps[key] = StaticStep(run, rows, nodes, self._model.device)
        return steps[key]

    def _agrees(
        self, logits: Tensor, expected: Tensor, rows: Sequence[TreeRow], *, is_repeated: bool
    ) -> bool:
        """Return, and remember, whether a step says what the model's own forward says.

        Raises:
            _NotStaticError: once too often it did not. In half precision, experts may be chosen otherwise.
        """
        nodes = [len(row.tree) for row in rows]
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
            message = (
                f"logits differ from its own forward's by {worst:.3g}, more than rounding ({allowed:.3g})"
            )
            raise _NotStaticError(message)
        return False

    def _give_up(self, problem: Exception) -> None:
        """Leave this model's steps to its own forward from now on, and say why."""
        self._kept.is_given_up = True
        self._memory.steps.clear()
        first_line = next(iter(str(problem).splitlines()), "")
        reason = (
            first_line if isinstance(problem, _NotStaticError) else f"{type(problem).__name__}: {first_line}"
        )
        name = type(self._model).__name__
        warnings.warn(
            f"{name}'s steps are not captured but done one kernel at a time: {reason}", stacklevel=2
        )


class _BucketLayer(DynamicLayer):
    """A layer that writes where it is told on the device, and shows a fixed number of slots.

    Args:
        keys: [B, heads, slots, width], a part of an arena.
        values: [B, heads, slots, value width].
        is_sliding: whether the layer has a window.
    """

    def __init__(self, keys: Tensor, values: Tensor, *, is_sliding: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values = self._memory = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_sliding = is_sliding
        self.is_initialized = True
        self.slots = torch.empty(0, dtype=torch.int64, device=keys.device)

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write keys and values [B, heads, n, width]; return all slots, of which the mask hides the rest."""
        keys, values = self._memory
        return keys.index_copy_(2, self.slots, key_states), values.index_copy_(2, self.slots, value_states)

    def get_mask_sizes(self, query_length: int) -> NoReturn:  # noqa: ARG002  # the library's signature
        """Refuse: whoever asks would bake the answer in."""
        message = "its mask depends on the cache's length, which changes from step to step"
        raise _NotStaticError(message)

    def get_seq_length(self) -> NoReturn:
        """Refuse: whoever asks would bake the answer in."""
        message = "it asks for the cache's length, which changes from step to step"
        raise _NotStaticError(message)


class _BucketCache(Cache):
    """An arena's cache as a captured step sees it.

    Args:
        cache: whose arena holds the tokens.
        rows: B.
        slots: how many of its slots are attended to.
    """

    def __init__(self, cache: ArenaCache, rows: int, slots: int) -> None:
        layers: list[Any] = []
        for index, layer in enumerate(cache.layers):
            if isinstance(layer, ArenaLayer):
                keys, values = (part[:rows, :, :slots] for part in cache.arena.memory(index))
                layers.append(_BucketLayer(keys, values, is_sliding=layer.is_sliding))
            else:
                layers.append(keeping_nothing())
        super().__init__(layers=layers)

    def write_at(self, slots: Tensor) -> None:
        """Say where the next tokens are written: int64 [n]."""
        for layer in self.layers:
            if isinstance(layer, _BucketLayer):
                layer.slots = slots


def _run_of(
    model: PreTrainedModel, layout: AttentionLayout, cache: _BucketCache, slots: int, *, folds: bool
) -> Callable[[PackedTrees], Verified]:
    """Return a model's forward over trees, as a function of them alone."""
    groups = query_groups(model) if folds else 1
    reference = weakref.ref(model)  # what is kept for a model must not keep it alive

    def run(trees: PackedTrees) -> Verified:
        model = reference()
        assert model is not None, "its steps are forgotten with it"  # noqa: S101  # cannot happen
        masks = {
            name: with_repeated_rows(
                trees.mask(slots, model.dtype, window=window, chunk=layout.chunks.get(name)), groups
            )
            for name, window in layout.windows.items()
        }
        cache.write_at(trees.slots)
        with grouped_query_attention(model) if folds else nullcontext():
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


def _signature(model: PreTrainedModel) -> tuple[object, ...]:
    """Return what captured steps depend on: where the weights are, and how the model attends."""
    weights = tuple(tensor.data_ptr() for tensor in chain(model.parameters(), model.buffers()))
    return (weights, model.dtype, attention_name(model))
