"""`torch.cuda` of the emulated device: streams, events, generators, graphs, what a failed capture leaves."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from device.emulation.device import CAPTURING, EmulatedDevice, Kind, repeated

Pool = tuple[int, int]


class Stream:
    """A stream; operations take effect at once, so streams need not wait for each other."""

    def __init__(self, device: EmulatedDevice, number: int = 0) -> None:
        self._device = device
        self.stream_id = number

    def synchronize(self) -> None:
        self._device.wait("stream.synchronize")

    def wait_stream(self, stream: "Stream") -> None:
        del stream

    def wait_event(self, event: Any) -> None:
        del event

    def record_event(self, event: Any = None) -> Any:
        return event


class Event:
    """An event; waiting for it is a wait for all."""

    device: EmulatedDevice

    def __init__(self, **_settings: object) -> None:
        self.is_recorded = False

    def record(self, stream: Stream | None = None) -> None:
        del stream
        self.is_recorded = True

    def synchronize(self) -> None:
        if self.is_recorded:
            self.device.wait("event.synchronize")


class Generator:
    """The device's generator: its numbers are the CPU's, its state tells whether a graph records it."""

    def __init__(self) -> None:
        self.state = [False]  # whether a graph records it

    def clone_state(self) -> list[bool]:
        return [False]

    def graphsafe_get_state(self) -> list[bool]:
        return self.state

    def graphsafe_set_state(self, state: list[bool]) -> None:
        self.state = state

    def get_state(self) -> Tensor:
        return torch.default_generator.get_state()

    def set_state(self, state: Tensor) -> None:
        torch.default_generator.set_state(state)


class Allocator:
    """The allocator's book-keeping of captures under way, which a failed capture leaves open."""

    def __init__(self) -> None:
        self.pools = 0
        self.under_way: list[Pool] = []

    def new_pool(self) -> Pool:
        self.pools += 1
        return (0, self.pools)


class Graph:
    """A graph, and how it is captured: as `torch.cuda.CUDAGraph` up to torch 2.11, failures included."""

    cuda: "EmulatedCuda"

    def __init__(self, *_arguments: object, **_settings: object) -> None:
        self._repeat: Callable[[], None] | None = None
        self._pool: Pool = (0, 0)
        self._generator_state: list[bool] = [False]

    def capture_begin(self, pool: Pool | None = None, capture_error_mode: str = "global") -> None:
        cuda = self.cuda
        if cuda.device.recording is not None:
            raise RuntimeError(CAPTURING)
        if cuda.current is cuda.default_stream:
            message = "CUDA graphs must be captured on a non-default stream"
            raise RuntimeError(message)
        self._pool = cuda.allocator.new_pool() if pool is None else pool
        self._generator_state = cuda.generator.state
        self._generator_state[0] = True
        cuda.allocator.under_way.append(self._pool)
        cuda.error_mode = capture_error_mode
        cuda.device.begin()

    def capture_end(self) -> None:
        recording = self.cuda.device.end()
        if recording.failure:  # before the allocator and the generator hear of the end
            message = "CUDA error: operation failed due to a previous error during capture"
            raise RuntimeError(message)
        self.cuda.allocator.under_way.remove(self._pool)
        self._generator_state[0] = False
        self.cuda.device.captures += 1
        self._repeat = repeated(recording)

    def replay(self) -> None:
        assert self._repeat is not None
        if self.cuda.device.is_recording_here:
            self.cuda.device.fail(f"{CAPTURING}: replay")
        self.cuda.device.note(Kind.REPLAY, "replay")
        self._repeat()

    def reset(self) -> None:
        self._repeat = None


class EmulatedCuda:
    """What stands in for `torch.cuda` while the device is emulated.

    Args:
        device: The device.

    Attributes:
        generator: The device's default generator.
        allocator: Which captures the allocator believes to be under way.
        error_mode: `capture_error_mode` of the last capture.
    """

    def __init__(self, device: EmulatedDevice) -> None:
        self.device = device
        self.generator = Generator()
        self.allocator = Allocator()
        self.error_mode = ""
        self.default_stream = self.current = Stream(device)
        self._streams = 0
        device.check_random = self._check_random

    def _check_random(self) -> None:
        is_recorded, records = self.generator.state[0], self.device.is_recording_here
        if records and not is_recorded:
            self.device.fail("the graph does not know the generator")
        if is_recorded and not records:
            message = "Offset increment outside graph capture encountered unexpectedly."
            raise RuntimeError(message)

    def new_stream(self, *_arguments: object, **_settings: object) -> Stream:
        self._streams = self._streams % 32 + 1  # torch hands out as many in turn
        return Stream(self.device, self._streams)

    def set_stream(self, stream: Stream) -> None:
        self.current = stream

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def synchronize(self, _device: object = None) -> None:
        if self.device.recording is not None:  # of any thread
            raise RuntimeError(CAPTURING)
        self.device.wait("torch.cuda.synchronize")

    def empty_cache(self) -> None:
        if self.allocator.under_way:
            message = "captures_underway.empty() INTERNAL ASSERT FAILED"
            raise RuntimeError(message)

    def end_allocating(self, _device: int, pool: Pool) -> None:
        if pool not in self.allocator.under_way:
            message = f"no capture to pool {pool} is under way"
            raise RuntimeError(message)
        self.allocator.under_way.remove(pool)

    @contextmanager
    def graph(
        self, graph: Graph, pool: Pool | None = None, stream: Stream | None = None, **settings: Any
    ) -> Iterator[None]:
        self.synchronize()
        self.empty_cache()
        with self.stream(stream or self.new_stream()):
            graph.capture_begin(pool, **settings)
            try:
                yield
            finally:
                graph.capture_end()


@contextmanager
def _nothing(*_arguments: object) -> Iterator[None]:
    yield


def install(patch: pytest.MonkeyPatch, device: EmulatedDevice) -> EmulatedCuda:
    """Put the emulated device in the place of `torch.cuda`, until the patch is undone."""
    cuda = EmulatedCuda(device)
    bound: dict[str, type] = {
        "CUDAGraph": type("CUDAGraph", (Graph,), {"cuda": cuda}),
        "Event": type("Event", (Event,), {"device": device}),
    }
    replaced: dict[str, object] = {
        **bound,
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda *_arguments, **_settings: True,
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "device": _nothing,
        "default_generators": (cuda.generator,),
        "current_stream": lambda *_arguments: cuda.current,
        "default_stream": lambda *_arguments: cuda.default_stream,
        "Stream": cuda.new_stream,
        "set_stream": cuda.set_stream,
        "stream": cuda.stream,
        "graph": cuda.graph,
        "graph_pool_handle": cuda.allocator.new_pool,
        "synchronize": cuda.synchronize,
        "empty_cache": cuda.empty_cache,
        "is_current_stream_capturing": lambda: device.is_recording_here,
        "get_device_name": lambda *_arguments: "an emulated CUDA device",
        "get_device_properties": lambda *_arguments: SimpleNamespace(multi_processor_count=2),
        "get_device_capability": lambda *_arguments: (9, 0),
        "get_rng_state": lambda *_arguments: cuda.generator.get_state(),
        "set_rng_state": lambda state, *_arguments: cuda.generator.set_state(state),
        "manual_seed_all": lambda _seed: None,
    }
    for name, value in replaced.items():
        patch.setattr(torch.cuda, name, value)
    private: dict[str, object] = {
        "_cuda_getDevice": lambda: 0,
        "_cuda_endAllocateToPool": cuda.end_allocating,
        "_cuda_releasePool": lambda *_arguments: None,
    }
    for name, value in private.items():
        patch.setattr(torch._C, name, value, raising=False)
    return cuda
