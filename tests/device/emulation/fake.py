"""A device `cuda` of torch's FakeTensors, which have a shape, a dtype and a device, but no values.

What the host computes is computed; what the device computes is only checked: torch's own rules for CUDA say
which device each result is on, and refuse operations that mix devices or whose result depends on values. What
comes back from the device is zeros.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from device.emulation.device import Kind, innermost_place
from device.emulation.tensors import CUDA, mapped, tensors_in

aten: Any = torch.ops.aten


class MixedDevicesError(RuntimeError):
    """An operation was given tensors of the host and of the device."""


class FakeCuda(TorchDispatchMode):
    """Lets tensors on `cuda` be fakes.

    Attributes:
        copies: How often each place in Lookahead's code copied to the device or back.
    """

    def __init__(self) -> None:
        super().__init__()
        self._fake = FakeTensorMode()
        self.copies: Counter[tuple[Kind, str]] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation for real on the host, and as a fake on the device."""
        kwargs = kwargs or {}
        given = tensors_in((args, kwargs))
        fakes = [tensor for tensor in given if isinstance(tensor, FakeTensor)]
        device = kwargs.get("device")
        is_to_device = device is not None and torch.device(device).type == "cuda"
        is_to_host = device is not None and not is_to_device
        if not fakes and not is_to_device:
            pinned = kwargs.get("pin_memory")
            return func(*args, **({**kwargs, "pin_memory": False} if pinned else kwargs))
        if func is aten.copy_.default and len(fakes) == 1:
            is_back = isinstance(args[1], FakeTensor)
            self._note(Kind.BACK if is_back else Kind.TO_DEVICE)
            return args[0].zero_() if is_back else args[0]
        if func is aten._to_copy.default and fakes and is_to_host:
            self._note(Kind.BACK)
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype, device="cpu")
        if func is aten._to_copy.default and not fakes:
            self._note(Kind.TO_DEVICE)
        elif fakes:
            self._refuse_mixes(func, given)
        with self._fake:
            return func(*mapped(self._fake_of, args), **mapped(self._fake_of, kwargs))

    def _fake_of(self, tensor: Tensor) -> Tensor:
        return tensor if isinstance(tensor, FakeTensor) else self._fake.from_tensor(tensor)

    def _note(self, kind: Kind) -> None:
        self.copies[kind, innermost_place()[0]] += 1

    def _refuse_mixes(self, func: Any, given: list[Tensor]) -> None:
        """Refuse what torch would copy by itself, too: an index of the host."""
        strangers = [tensor for tensor in given if tensor.device.type != "cuda" and tensor.ndim > 0]
        if strangers:
            message = f"{func} on a tensor of {strangers[0].device} and on one of cuda"
            raise MixedDevicesError(message)

    def move(self, model: nn.Module) -> None:
        """Replace a model's weights by fakes on the device, in place."""
        moved: dict[int, Tensor] = {}

        def fake(tensor: Tensor) -> Tensor:
            if id(tensor) not in moved:
                moved[id(tensor)] = torch.empty_like(tensor, device=CUDA)
            return moved[id(tensor)]

        with self:
            for module in model.modules():
                for name, weight in module._parameters.items():
                    if weight is not None:
                        module._parameters[name] = nn.Parameter(fake(weight), requires_grad=False)
                for name, buffer in module._buffers.items():
                    if buffer is not None:
                        module._buffers[name] = fake(buffer)
