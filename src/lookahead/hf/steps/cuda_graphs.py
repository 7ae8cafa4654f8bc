"""Steps captured in CUDA graphs: one launch per step, not one per kernel.

The model is not changed: a graph records the kernels of its own forward pass. It cannot repeat other work
(hooks, code that reads values or the cache's length), so a model that does other work runs without graphs.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from threading import Lock
from time import perf_counter
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lookahead.backends.cuda.capture import Capture, CudaCapture, NoCapture
from lookahead.backends.cuda.graphs import StaticStep, StepMemory
from lookahead.backends.cuda.packed_trees import MAX_MOVES, context_slots, node_bucket
from lookahead.decoding.kv_slab import Allocate
from lookahead.errors import first_line
from lookahead.hf.attention import tree_kernel
from lookahead.hf.attention.captured_forward import run_of
from lookahead.hf.cache.bucket_cache import BucketCache, NotStaticError
from lookahead.hf.compat.fingerprint.watch import Fingerprint
from lookahead.hf.compat.modifications import modifications, replaces_forwards
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
_MIN_REPLAYS = 3
"""Replays that are timed; captured steps are left where none of them was faster."""
_MIN_SPEEDUP = 1.0
_SHARE_OF_NODES = 0.9
"""Share of the nodes of a mixture of experts that must agree: rounding may choose another expert for one."""


def capture_for(device: torch.device) -> Capture | None:
    """Return what captures steps on a device; None if no graphs exist there."""
    return CudaCapture(device) if device.type == "cuda" else None


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


@dataclass(frozen=True)
class CaptureResult:
    """What the first steps of a model showed that were captured.

    Attributes:
        reason: Why its steps are no longer captured; empty if they are.
        speedup: Of the replays that were compared, the largest: seconds of the model's own code ÷ seconds of
            the replay; None before the first one.
        why_no_kernel: Why it attends by torch's attention, not by our kernels; empty if by these.
    """

    reason: str = ""
    speedup: float | None = None
    why_no_kernel: str = ""


class CapturedModels:
    """The captured steps of models, kept from call to call.

    Args:
        new_capture: Returns what captures steps on a device, or None; `capture_for` if not given.
    """

    def __init__(self, new_capture: Callable[[torch.device], Capture | None] | None = None) -> None:
        self._new_capture = new_capture
        self._models: WeakKeyDictionary[PreTrainedModel, _CapturedModel] = WeakKeyDictionary()
        self._warned: WeakSet[PreTrainedModel] = WeakSet()
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
        new_capture = self._new_capture or capture_for
        if new_capture(model.device) is None:
            return None
        reason = unsupported_reason(model, eager.traits)
        if reason:
            if replaces_forwards(model):  # by libraries, as a rule: the caller may not know
                self._warn_once(model, reason)
            return None
        with self._lock:
            found = self._models.get(model)
            key = _key_of(eager)
            if found is None or found.key != key:
                found = self._models[model] = _CapturedModel(key, partial(new_capture, model.device))
        return None if found.why_given_up else GraphRunner(eager, found)

    def result(self, model: PreTrainedModel) -> CaptureResult:
        """Return what the first captured steps of a model showed."""
        with self._lock:
            found = self._models.get(model)
        return CaptureResult() if found is None else found.result

    def _warn_once(self, model: PreTrainedModel, reason: str) -> None:
        with self._lock:
            is_new = model not in self._warned
            self._warned.add(model)
        if is_new:
            _warn(model, reason)


class _CapturedModel:
    """State kept for a model between calls, valid while the addresses of its weights stay the same.

    Args:
        key: What its steps depend on besides their shapes.
        new_capture: Returns what captures them, a new one for each `StepMemory`.
    """

    def __init__(self, key: object, new_capture: Callable[[], Capture | None]) -> None:
        self.key = key
        self._new_capture = new_capture
        self.why_given_up = ""
        self.agreed: set[tuple[bool, int]] = set()
        """The checks that were passed: whether of a replay, and of how many nodes, 0 for any."""
        self.speedups: list[float] = []
        """Of the replays that were checked: seconds of the model's own code ÷ seconds of the replay."""
        self.disagreements = 0
        self.why_no_kernel: str | None = None
        """Why the tree attention kernels do not serve it; empty if they do, None before the first step."""
        self._free: StepMemory | None = None
        self._lock = Lock()

    @property
    def result(self) -> CaptureResult:
        """What its first captured steps showed."""
        speedup = max(self.speedups, default=None)
        return CaptureResult(self.why_given_up, speedup, self.why_no_kernel or "")

    def leave_kernel(self, problem: Exception) -> None:
        """Attend by torch from now on; the steps are compared anew."""
        self.why_no_kernel = f"{type(problem).__name__}: {first_line(problem)}"
        self.agreed.clear()
        self.disagreements = 0

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
            self._free = None if self.why_given_up else memory


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
    def speedup(self) -> float | None:
        """How much faster the replays that were compared are than the model's own code, if any was."""
        return self._kept.result.speedup

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
        if nodes is None or self._kept.why_given_up or not batch.is_padded_left or batch.rows[0].types:
            return None
        if any(row.shift is not None and row.shift.ndim for row in batch.rows):  # positions of several axes
            return None
        arena = batch.cache.arena
        arena.moves.are_deferred = True
        slots = [row.slot for row in batch.rows]
        padded = batch.over_slots(min(arena.max_rows, 1 << max(slots).bit_length()))
        found = self._tried(batch, padded, nodes)
        if found is None:
            arena.moves.are_deferred = not self._kept.why_given_up
            arena.set_active_rows(slots)
        return found

    def read(self, batch: StepBatch, logits_of: Sequence[int]) -> None:  # the protocol's
        """Return None: no two parts of prompts need to have one shape, so none is captured."""

    def close(self) -> None:
        """Return the memory for the next call."""
        self._kept.give_back(self._memory)

    def _tried(self, batch: StepBatch, padded: StepBatch, nodes: int) -> StepLogits | None:
        """Return the result of the padded batch; None where the eager runner must serve."""
        for has_room in (False, True):
            try:
                return self._verified(batch, padded, nodes)
            except torch.OutOfMemoryError as problem:
                if has_room:
                    self._give_up(problem)
                self._memory.forget_steps()
            except Exception as problem:  # noqa: BLE001  # whatever a model's code raises, the eager runner serves
                if self._kept.why_no_kernel == "":  # the kernels, not the model, may be at fault
                    self._memory.forget_steps()
                    self._kept.leave_kernel(problem)
                else:
                    self._give_up(problem)
                return None
        return None

    def _verified(self, batch: StepBatch, padded: StepBatch, nodes: int) -> StepLogits | None:
        """Return the result of the padded batch; None if it disagrees with the eager runner's."""
        arena = batch.cache.arena
        arena.set_active_rows([row.slot for row in padded.rows])
        arena.count_appended(nodes)
        step = self._step(padded, nodes)
        is_replay, expected = step.is_repeated, None
        # The kernels are compiled for each number of nodes; of torch's attention one check serves for all.
        check = (is_replay, nodes if self._kept.why_no_kernel == "" else 0)
        is_timed = is_replay and len(self._kept.speedups) < _MIN_REPLAYS
        begin = perf_counter()
        if is_timed or check not in self._kept.agreed:
            arena.set_active_rows([row.slot for row in batch.rows])
            expected = self._eager.forward(batch, batch.width)
            wait_for(expected)
            arena.set_active_rows([row.slot for row in padded.rows])
            arena.count_appended(nodes)
        moves = {}
        if is_replay:
            moves = arena.moves.take(len(padded.rows), MAX_MOVES)
        else:  # a step that is captured runs more than once
            arena.moves.apply()
        between = perf_counter()
        tokens, positions = padded.tokens(nodes), padded.positions(nodes)
        verified = step(self._memory.capture, tokens, positions, padded.tree_rows, moves)
        slots = [row.slot for row in batch.rows]
        result = StepLogits(
            verified.logits,
            slots,
            step.copied_back(verified),
            is_usual=is_replay and expected is None,
            is_captured=is_replay,
        )
        if expected is not None:
            if is_replay:
                self._compare_times(between - begin, perf_counter() - between)
            if not self._agrees(verified.logits[slots], expected, batch, check):
                return None
        return result

    def _compare_times(self, eager_s: float, captured_s: float) -> None:
        """Note how much faster a replay is than the model's own code.

        Raises:
            NotStaticError: None of the first replays was faster.
        """
        speedups = self._kept.speedups
        speedups.append(eager_s / captured_s)
        is_known = self._model.device.type == "cuda" and len(speedups) >= _MIN_REPLAYS
        if is_known and max(speedups) < _MIN_SPEEDUP:
            message = f"replays take {1 / max(speedups):.2g} times as long as its own code"
            raise NotStaticError(message)

    def _step(self, padded: StepBatch, nodes: int) -> StaticStep:
        """Return the step of this shape over this cache."""
        arena, rows, kept = padded.cache.arena, len(padded.rows), self._kept
        if kept.why_no_kernel is None:
            kept.why_no_kernel = tree_kernel.unsupported_reason(
                self._eager.traits, padded.cache, groups_queries=self._eager.verification.groups_queries
            )
        by_kernel = kept.why_no_kernel == ""
        # The kernels read lengths on the device; torch's attention computes all slots that it is given.
        slots = arena.room if by_kernel else min(context_slots(arena.longest_length + nodes), arena.room)
        key = (rows, nodes, slots, arena.addresses)
        steps = self._memory.steps
        if key not in steps:
            cache = BucketCache(padded.cache, rows, slots)
            eager = self._eager
            run = run_of(
                self._model,
                eager.traits,
                eager.layout,
                cache,
                slots,
                groups_queries=eager.verification.groups_queries,
                by_kernel=by_kernel,
            )
            steps[key] = StaticStep(run, self._memory, rows, nodes, self._model.device)
        return steps[key]

    def _agrees(self, logits: Tensor, expected: Tensor, batch: StepBatch, check: tuple[bool, int]) -> bool:
        """Return, and record, whether a step's logits agree with those of the eager runner at most nodes.

        In half precision, rounding may choose other experts for some nodes. A few disagreements are allowed.

        Raises:
            NotStaticError: There were too many disagreements.
        """
        nodes = [len(tree) for tree in batch.trees]
        actual, wanted = (
            torch.cat([of_row[:size] for of_row, size in zip(part, nodes, strict=True)]).float()
            for part in (logits, expected)
        )
        spread = float(wanted[wanted.isfinite()].std())
        errors = (actual - wanted).abs().where(actual != wanted, 0.0).amax(dim=-1)
        allowed = max(_RELATIVE_FLOOR, _ROUNDING_FACTOR * torch.finfo(logits.dtype).eps) * spread
        share = float((errors <= allowed).float().mean())
        if share >= (_SHARE_OF_NODES if self._eager.traits.has_experts else 1.0):
            self._kept.agreed.add(check)
            return True
        self._kept.disagreements += 1
        if self._kept.disagreements >= _MAX_DISAGREEMENTS:
            worst = float(errors.max())
            message = f"logits differ from its own code's by {worst:.3g}, more than rounding ({allowed:.3g})"
            raise NotStaticError(message)
        return False

    def _give_up(self, problem: Exception) -> None:
        """Stop capturing this model's steps, with a warning that says why."""
        self._memory.forget_steps()
        reason = first_line(problem)
        if not isinstance(problem, NotStaticError):
            reason = f"{type(problem).__name__}: {reason}"
        self._kept.why_given_up = reason
        _warn(self._model, reason)


def _warn(model: PreTrainedModel, reason: str) -> None:
    warnings.warn(f"{type(model).__name__}'s steps are not captured in CUDA graphs: {reason}", stacklevel=2)


def wait_for(tensor: Tensor) -> None:
    """Wait until a tensor is computed."""
    if tensor.device.type == "cuda":
        torch.cuda.current_stream(tensor.device).synchronize()


def _key_of(eager: EagerRunner) -> object:
    """Return what captured steps depend on besides their shapes and the numbers in the weights."""
    return (Fingerprint.of(eager.model), eager.traits.key, eager.verification)
