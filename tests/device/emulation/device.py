"""The emulated device: it runs operations on the CPU, refuses what CUDA refuses, and notes what it costs."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from threading import RLock, get_ident
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import lookahead
from device.emulation.tensors import DeviceTensor, data_of, mapped, tensors_in

aten: Any = torch.ops.aten
_PACKAGE = str(Path(lookahead.__file__).parent) + "/"
_COPIES = frozenset((aten.copy_.default, aten._to_copy.default))
_READS_VALUES = {
    # operations whose result the host needs, with how often they wait for it
    aten._local_scalar_dense.default: 1,
    aten.equal.default: 1,
    aten.nonzero.default: 1,
    aten.masked_select.default: 1,
    aten._unique2.default: 1,
    aten.unique_dim.default: 1,
    aten.repeat_interleave.Tensor: 1,
    aten.multinomial.default: 2,  # it checks the probabilities' range and their sum
}
_INDEXES = frozenset(
    (
        aten.index.Tensor,
        aten._unsafe_index.Tensor,
        aten.index_put.default,
        aten.index_put_.default,
        aten._index_put_impl_.default,
    )
)
_VIEWS_WITHOUT_ALIAS = frozenset((aten._unsafe_view.default, aten._reshape_alias.default))
_RANDOM = frozenset(
    (
        aten.multinomial.default,
        aten.exponential_.default,
        aten.uniform_.default,
        aten.normal_.default,
        aten.bernoulli_.float,
        aten.rand.default,
        aten.randn.default,
    )
)
CAPTURING = "operation not permitted when stream is capturing"


class Kind(StrEnum):
    """What a place in the code makes the device or the host do."""

    WAIT = "wait"
    TO_DEVICE = "copy to the device"
    BACK = "copy back"
    LAUNCH = "launch"
    REPLAY = "replay"


class Event(NamedTuple):
    """Something that happened, and the innermost place in Lookahead's code that made it happen."""

    kind: Kind
    place: str
    line: int
    operation: str


@dataclass
class Operation:
    """An operation that a graph recorded, with the arguments it had."""

    function: Callable[..., Any]
    args: Any
    kwargs: Any
    results: list[Tensor]
    is_mutable: bool


@dataclass
class Recording:
    """A capture under way."""

    operations: list[Operation] = field(default_factory=list)
    before: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Memory from outside the graph that the capture wrote to, and what it held before."""
    created: dict[int, Tensor] = field(default_factory=dict)
    failure: str = ""


class EmulatedDevice:
    """The state of the device, which all threads share.

    Attributes:
        events: What happened since the last `clear`.
        recording: The capture under way, if there is one.
        captures: Graphs captured so far.
        begun: Captures begun so far.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.recording: Recording | None = None
        self.recorder: int | None = None  # the thread that captures
        self.captures = self.begun = 0
        self.lock = RLock()
        self._pinned: dict[int, Tensor] = {}
        self._written_later: list[tuple[Tensor, Tensor]] = []
        self._read_later: list[tuple[Tensor, Tensor]] = []
        self.check_random: Callable[[], None] = lambda: None

    def clear(self) -> None:
        """Forget the events so far."""
        self.events.clear()

    def count(self, kind: Kind) -> int:
        """Return how many events of a kind there are."""
        return sum(event.kind is kind for event in self.events)

    def places(self, kind: Kind) -> Counter[str]:
        """Return how often each place in the code caused an event of a kind."""
        return Counter(event.place for event in self.events if event.kind is kind)

    def note(self, kind: Kind, operation: str, times: int = 1) -> None:
        """Note what a place in the code causes."""
        place, line = innermost_place()
        self.events += [Event(kind, place, line, operation)] * times

    def wait(self, operation: str, times: int = 1) -> None:
        """Wait until the device has done all: copies that were under way have arrived.

        Raises:
            RuntimeError: A capture is under way in this thread, or memory of the host changed under a copy.
        """
        if self.is_recording_here:
            self.fail(f"{CAPTURING}: {operation}")
        self.note(Kind.WAIT, operation, times)
        for target, values in self._written_later:
            target.copy_(values)
        read, self._read_later, self._written_later = self._read_later, [], []
        for source, values in read:
            if not torch.equal(source, values):
                message = "the host wrote to pinned memory from which a copy to the device was under way"
                raise RuntimeError(message)

    @property
    def is_recording_here(self) -> bool:
        """Whether this thread captures a graph."""
        return self.recording is not None and self.recorder == _thread()

    def begin(self) -> None:
        """Begin a capture."""
        self.recording, self.recorder = Recording(), _thread()
        self.begun += 1

    def fail(self, message: str) -> None:
        """Spoil the capture under way as the first operation does that no graph can hold."""
        assert self.recording is not None
        self.recording.failure = self.recording.failure or message
        place, line = innermost_place()
        full = f"CUDA error: {message} at {place}:{line}"
        raise RuntimeError(full)

    def end(self) -> Recording:
        """End a capture. A capture computes nothing: what it wrote is undone, what it made is spoilt."""
        found, self.recording, self.recorder = self.recording, None, None
        assert found is not None
        with torch._C._DisableTorchDispatch(), torch.inference_mode():
            for memory, held in found.before.values():
                memory.copy_(held)
            for operation in found.operations:
                for result in operation.results:
                    if not operation.is_mutable:
                        result.fill_(float("nan") if result.is_floating_point() else 0)
        return found

    def run(self, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operation.

        Raises:
            RuntimeError: CUDA would refuse it: it mixes devices, or no graph can hold it.
        """
        given = tensors_in((args, kwargs))
        here = [tensor for tensor in given if isinstance(tensor, DeviceTensor)]
        device = kwargs.get("device")
        names_cuda = device is not None and torch.device(device).type == "cuda"
        if not here and not names_cuda:
            return self._run_on_host(function, args, kwargs)
        elsewhere = [tensor for tensor in given if not isinstance(tensor, DeviceTensor)]
        goes_to_host = bool(here) and device is not None and not names_cuda
        if function in _COPIES:
            copied = self._copy(function, args, kwargs, here, goes_to_host=goes_to_host)
            if copied is not None:
                return copied
        else:
            self._refuse_mixes(function, args, here, elsewhere)
        if function in _READS_VALUES and here:
            self.wait(str(function), _READS_VALUES[function])
        if function in _RANDOM:
            self.check_random()
        is_transfer = function in _COPIES and bool(elsewhere)
        return self._launch(function, args, kwargs, here, goes_to_host=goes_to_host, is_transfer=is_transfer)

    def _run_on_host(self, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        pins = kwargs.get("pin_memory")
        found = function(*args, **({**kwargs, "pin_memory": False} if pins else kwargs))
        if pins:
            storage = found.untyped_storage()
            self._pinned[storage.data_ptr()] = found  # kept: its address must stay taken
        return found

    def _is_pinned(self, tensor: Tensor) -> bool:
        return tensor.numel() > 0 and tensor.untyped_storage().data_ptr() in self._pinned

    def _copy(
        self,
        function: Any,
        args: Any,
        kwargs: dict[str, Any],
        here: list[DeviceTensor],
        *,
        goes_to_host: bool,
    ) -> Any:
        """Note a copy between host and device; return its result if it arrives later, else None."""
        if function is aten._to_copy.default:
            if goes_to_host:
                self.note(Kind.BACK, "to the CPU")
                self.wait("a copy to memory that is not pinned")
            elif not here:
                self.note(Kind.TO_DEVICE, "to the device")
                if kwargs.get("non_blocking") and self._is_pinned(args[0]):
                    self._read_later.append((args[0], args[0].clone()))
                else:
                    self.wait("a copy from memory that is not pinned")
            return None
        target, source = args[0], args[1]
        if isinstance(target, DeviceTensor) == isinstance(source, DeviceTensor):
            return None
        is_to_device = isinstance(target, DeviceTensor)
        host = source if is_to_device else target
        self.note(Kind.TO_DEVICE if is_to_device else Kind.BACK, "copy_")
        is_later = bool(kwargs.get("non_blocking") or (len(args) > 2 and args[2])) and self._is_pinned(host)
        if not is_later:
            self.wait("a copy that is not asynchronous")
        elif is_to_device:
            self._read_later.append((source, source.clone()))
        else:
            values = source.held.clone()
            target.fill_(float("nan") if target.is_floating_point() else -(1 << 30))
            self._written_later.append((target, values))
        if is_to_device:
            return None
        if not is_later:
            with torch._C._DisableTorchDispatch():
                target.copy_(source.held)
        return target

    def _refuse_mixes(
        self, function: Any, args: Any, here: list[DeviceTensor], elsewhere: list[Tensor]
    ) -> None:
        indices = [tensor for tensor in tensors_in(args[1:2]) if function in _INDEXES]
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            self.wait("an index of booleans")
        for tensor in elsewhere:
            is_index = any(tensor is index for index in indices)
            if tensor.ndim == 0 and not is_index:  # a number, given as an argument
                continue
            if here and is_index:
                self.note(Kind.TO_DEVICE, "an index")
                self.wait("an index from the host")
            elif here:
                place, line = innermost_place()
                message = (
                    f"Expected all tensors to be on the same device, but found at least two devices, "
                    f"cuda:0 and {tensor.device}: {function} at {place}:{line}"
                )
                raise RuntimeError(message)

    def _launch(
        self,
        function: Any,
        args: Any,
        kwargs: dict[str, Any],
        here: list[DeviceTensor],
        *,
        goes_to_host: bool,
        is_transfer: bool,
    ) -> Any:
        on_host = {name: value for name, value in kwargs.items() if name != "pin_memory"}
        if on_host.get("device") is not None:
            on_host["device"] = torch.device("cpu")
        args, on_host = mapped(data_of, args), mapped(data_of, on_host)
        schema = function._schema
        is_view = function in _VIEWS_WITHOUT_ALIAS or (
            not schema.is_mutable and any(result.alias_info is not None for result in schema.returns)
        )
        if self.is_recording_here and schema.is_mutable:
            self._remember(schema, args, on_host)
        found = _computed(function, args, on_host)
        if goes_to_host:
            return found
        results = tensors_in(found)
        if results and not is_view and not is_transfer and not self.is_recording_here:
            self.note(Kind.LAUNCH, str(function))
        if self.is_recording_here and self.recording is not None and not is_view:
            if not schema.is_mutable:
                for result in results:
                    self.recording.created[result.untyped_storage().data_ptr()] = result
            self.recording.operations.append(Operation(function, args, on_host, results, schema.is_mutable))
        known = {id(tensor.held): tensor for tensor in here}
        # A view of a tensor made outside inference mode is none of inference mode.
        is_inference = torch.is_inference_mode_enabled() and not (
            is_view and here and not here[0].is_inference()
        )
        with torch.inference_mode(is_inference):
            return mapped(
                lambda tensor: known[id(tensor)] if id(tensor) in known else DeviceTensor(tensor), found
            )

    def _remember(self, schema: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Note what the memory holds that a captured operation is about to write to."""
        recording = self.recording
        assert recording is not None
        for index, argument in enumerate(schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = args[index] if index < len(args) else kwargs.get(argument.name)
            for tensor in tensors_in(value):
                address = tensor.untyped_storage().data_ptr()
                if address not in recording.created and address not in recording.before:
                    whole = tensor.as_strided(
                        (tensor.untyped_storage().nbytes() // tensor.itemsize,), (1,), 0
                    )
                    recording.before[address] = (whole, whole.clone())


def _computed(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if function is aten.histc.default and not args[0].is_floating_point():  # only CUDA counts integers
        return aten.histc.default(args[0].float(), *args[1:], **kwargs).to(args[0].dtype)
    return function(*args, **kwargs)


def repeated(recording: Recording) -> Callable[[], None]:
    """Return what repeats the operations of a capture, and nothing else, with the arguments they had."""

    def repeat() -> None:
        # A graph knows of no modes: it may be captured in inference mode and replayed outside.
        with torch._C._DisableTorchDispatch(), torch.inference_mode():
            for operation in recording.operations:
                found = _computed(operation.function, operation.args, operation.kwargs)
                if not operation.is_mutable:
                    for result, new in zip(operation.results, tensors_in(found), strict=True):
                        result.copy_(new)

    return repeat


class UseDevice(TorchDispatchMode):
    """Lets this thread use the emulated device."""

    def __init__(self, device: EmulatedDevice) -> None:
        super().__init__()
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        is_inference = torch.is_inference_mode_enabled()
        if is_inference or any(tensor.is_inference() for tensor in tensors_in(args)):
            with self:  # operations made of others arrive here whole
                found = func.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        return self._device.run(func, args, kwargs)


@contextmanager
def used(device: EmulatedDevice) -> Iterator[EmulatedDevice]:
    """Use the device in this thread."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # numbers of the host reach the device by a copy
    try:
        with UseDevice(device):
            yield device
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def _thread() -> int:
    return get_ident()


def innermost_place() -> tuple[str, int]:
    """Return the innermost place of Lookahead's code, as "file function", and its line."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_PACKAGE):
            return f"{name.removeprefix(_PACKAGE)} {frame.f_code.co_qualname}", frame.f_lineno
        frame = frame.f_back
    return "elsewhere", 0
