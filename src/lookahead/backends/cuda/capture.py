"""Capturing steps as CUDA graphs, and putting torch in order where that fails."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any, Protocol
from weakref import WeakSet

import torch

from lookahead.backends.cuda.waits import refuse_waits

_CAPTURING = Lock()
"""Held during captures: the generator that a capture sets aside belongs to the whole process."""

_STREAMS = 32
"""Streams that torch hands out in turn for each device."""
_HOLDERS: "WeakSet[CudaCapture]" = WeakSet()
"""What captures on a stream of its own, whatever else does."""

Step = Callable[[], Any]


class Capture(Protocol):
    """Makes a step that has run before repeatable."""

    def __call__(self, step: Step) -> Step:
        """Return what repeats the step over the present content of its buffers."""

    def forget(self) -> None:
        """Let go of what the captured steps shared, once none of them is used again."""


class NoCapture:
    """Repeats a step by doing it again: on devices without graphs, and in tests."""

    def __call__(self, step: Step) -> Step:
        """Return the step."""
        return step

    def forget(self) -> None:
        """Do nothing."""


class CudaCapture:
    """Captures steps as CUDA graphs, which share one pool of memory: only one of them may run at a time.

    Args:
        device: Where they run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None
        self._side: Any = None  # one stream for all: libraries keep a workspace for each that they have seen

    def __call__(self, step: Step) -> Step:
        """Return what replays the step's kernels; it holds what they write, not the step.

        Where other captures hold all of torch's streams, return the step itself.

        Raises:
            RuntimeError: the step waits for the device or does something else that no graph can hold.
        """
        with _CAPTURING, torch.cuda.device(self._device):
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            if self._side is None:
                self._side = self._free_stream()
            if self._side is None:
                return step
            self._warm_up(step)
            current, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
            self._side.wait_stream(current)
            try:
                written = self._captured(graph, step)
            except BaseException:
                self._abandon(graph)
                raise
            finally:
                torch.cuda.set_stream(current)  # where capturing fails, torch may leave the other one current

        def replay() -> Any:
            graph.replay()
            return written

        return replay

    def forget(self) -> None:
        """Use another pool from now on: torch refuses a pool again whose graphs are gone but for a tensor."""
        self._pool = None

    def _free_stream(self) -> Any:
        """Return a stream that no other capture uses, or None if all are in use.

        Libraries keep one workspace for each stream, which its graphs use: graphs of two memories on one
        stream would write to one workspace when they are replayed at once.
        """
        held = {holder._side.stream_id for holder in _HOLDERS if holder._device == self._device}
        for _ in range(_STREAMS):
            stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            if stream.stream_id not in held:
                _HOLDERS.add(self)
                return stream
        return None

    def _warm_up(self, step: Step) -> None:
        """Do the step once more on the side stream, where libraries set themselves up outside the graph.

        A wait is refused here already, because a capture that fails leaves torch's allocator and generator
        in disorder.
        """
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side), refuse_waits():
            step()
        torch.cuda.current_stream().wait_stream(self._side)

    def _captured(self, graph: torch.cuda.CUDAGraph, step: Step) -> Any:
        """Capture without `torch.cuda.graph`, which waits for all streams and empties all caches."""
        with torch.cuda.stream(self._side):
            with self._generator_set_aside():
                # Other threads may go on allocating meanwhile.
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            written = step()
            graph.capture_end()
            return written

    @contextmanager
    def _generator_set_aside(self) -> Iterator[None]:
        """Give the capture a copy of the device's generator.

        Torch marks the generator that is there when a capture begins: until the capture ends, or for ever if
        it fails, drawing from it raises in every thread. Steps draw nothing, so a copy serves.
        """
        generator = torch.cuda.default_generators[self._index]
        own = generator.graphsafe_get_state()
        generator.graphsafe_set_state(generator.clone_state())
        try:
            yield
        finally:
            generator.graphsafe_set_state(own)

    def _abandon(self, graph: torch.cuda.CUDAGraph) -> None:
        """End a capture that failed, also where torch's own end of it stops half way (up to torch 2.11)."""
        with suppress(Exception):
            graph.capture_end()
        if self._pool is not None:
            with suppress(Exception):  # the allocator would take the capture for one under way
                torch._C._cuda_endAllocateToPool(self._index, self._pool)
            with suppress(Exception):
                torch._C._cuda_releasePool(self._index, self._pool)
        self._pool = None

    @property
    def _index(self) -> int:
        index: int | None = self._device.index
        return torch.cuda.current_device() if index is None else index
