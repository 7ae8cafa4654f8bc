"""Verified steps in static buffers, which a CUDA graph can repeat.

A graph repeats kernels with the arguments they had. So whatever changes from step to step is content of
buffers, never an argument: tokens, positions, where keys and values are written, and the few numbers from
which the mask is computed on the device. They travel there in one copy. What is an argument, the shapes,
is rounded up, so that it repeats. What the host needs of the result travels back in one copy, too.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lookahead.backends.cuda.capture import Capture
from lookahead.backends.cuda.packed_trees import (
    NODE_BUCKETS,
    Moves,
    PackedTrees,
    columns_for,
    context_slots,
    pack,
)
from lookahead.decoding.attention.visibility import TreeRow
from lookahead.decoding.logits_summary import summarize


@dataclass(frozen=True)
class Verified:
    """The result of a step; the next step overwrites it.

    Attributes:
        logits: [B, n, V].
        summary: int32 [B, n, columns] on the device, see `summarize`.
    """

    logits: Tensor
    summary: Tensor


class StaticStep:
    """A step of one shape: its buffers, and how it is done; captured when it is used for the second time.

    The first time it is done as it is: whatever it sets up then is no part of what is captured.

    Args:
        run: Maps the packed trees, always the same tensor, to logits [B, n, V].
        memory: Where the logits are written.
        rows: B.
        nodes: n.
        device: Where it runs.

    Attributes:
        is_repeated: Whether the next use repeats what was captured.
    """

    def __init__(
        self,
        run: Callable[[PackedTrees], Tensor],
        memory: "StepMemory",
        rows: int,
        nodes: int,
        device: torch.device,
    ) -> None:
        shape, self._is_pinned = (rows, columns_for(nodes)), device.type == "cuda"
        self._host = self._of_host(shape, torch.int64)
        with torch.inference_mode(False):
            self._packed = torch.zeros(shape, dtype=torch.int64, device=device)
        self._back: Tensor | None = None
        packed = self._packed

        def once() -> Verified:
            logits = run(PackedTrees(packed))
            kept = memory.logits_like(logits)
            kept.copy_(logits)
            return Verified(kept, summarize(logits))

        self._repeat: Callable[[], Verified] = once
        self._uses = 0
        self.is_repeated = False

    def __call__(
        self,
        capture: Capture,
        tokens: Tensor,
        positions: Tensor,
        rows: Sequence[TreeRow],
        moves: Moves | None = None,
    ) -> Verified:
        """Verify trees, as given to `pack`.

        Raises:
            Exception: Whatever the step or capturing it raises.
        """
        pack(self._host, tokens, positions, rows, moves)
        self._packed.copy_(self._host, non_blocking=True)  # every step is waited for before the next
        if self._uses == 1:
            self._repeat = capture(self._repeat)
            self.is_repeated = True
        self._uses += 1
        return self._repeat()

    def copied_back(self, verified: Verified) -> Tensor:
        """Return the summary on the host, overwritten by the next step; waits until the step is done."""
        if not self._is_pinned:
            return verified.summary
        if self._back is None:
            self._back = self._of_host(verified.summary.shape, verified.summary.dtype)
        self._back.copy_(verified.summary, non_blocking=True)
        done: Any = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # does not spin a core
        done.record()
        done.synchronize()
        return self._back

    def _of_host(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        with torch.inference_mode(False):  # later calls may be in inference mode or not
            return torch.zeros(*shape, dtype=dtype, device="cpu", pin_memory=self._is_pinned)


class StepMemory:
    """A cache's memory, lent from call to call so that its addresses repeat, and the steps captured there.

    Serves one call at a time.

    Args:
        capture: Captures the steps.
    """

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.steps: dict[Hashable, StaticStep] = {}
        self._spare: list[Tensor] = []
        self._lent: list[Tensor] = []
        self._logits: Tensor | None = None

    def begin(self) -> None:
        """Take back what the last call used; what a call does not ask for again is let go after it."""
        self._spare, self._lent = self._lent, []

    def forget_steps(self) -> None:
        """Let go of all captured steps."""
        self.steps.clear()
        self._logits = None
        self.capture.forget()

    def logits_like(self, logits: Tensor) -> Tensor:
        """Return a tensor of that shape and dtype, which all steps share: only the last one's is read."""
        held, needed = self._logits, logits.numel()
        if held is None or held.numel() < needed or held.dtype != logits.dtype:
            with torch.inference_mode(False):
                held = self._logits = torch.empty(needed, dtype=logits.dtype, device=logits.device)
        return held[:needed].view(logits.shape)

    def allocate(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return zeros, [layers, B, heads, capacity or more, width], like a tensor in all else.

        Zeros, because a step reads all of it: what a mask hides must still be a number.
        """
        fits = [_fits(tensor, shape, like) for tensor in self._spare]
        if any(fits):
            self._lent.append(self._spare.pop(fits.index(True)).zero_())
            return self._lent[-1]
        self._spare.clear()  # before more is allocated: both together may not fit
        self.forget_steps()  # they are of other addresses, and would hold on to their memory
        slots = context_slots(shape[3] + NODE_BUCKETS[-1])  # trees are rounded up, too
        shape = (*shape[:3], slots, shape[4])
        # Of one kind, smaller ones are outgrown.
        self._lent = [
            lent for lent in self._lent if not _alike(lent, shape, like) or _fits(lent, shape, like)
        ]
        with torch.inference_mode(False):  # later calls may be in inference mode or not
            self._lent.append(torch.zeros(shape, dtype=like.dtype, device=like.device))
        return self._lent[-1]


def _alike(tensor: Tensor, shape: tuple[int, ...], like: Tensor) -> bool:
    same = (tensor.dtype, tensor.device) == (like.dtype, like.device)
    return same and (*tensor.shape[:3], tensor.shape[4]) == (*shape[:3], shape[4])


def _fits(tensor: Tensor, shape: tuple[int, ...], like: Tensor) -> bool:
    return _alike(tensor, shape, like) and tensor.shape[3] >= shape[3]
