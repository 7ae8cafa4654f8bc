"""Tensors that say they are on `cuda:0`; their data are on the CPU."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

CUDA = torch.device("cuda:0")


class DeviceTensor(Tensor):
    """A tensor of the emulated device.

    Args:
        held: Its data, on the CPU.
    """

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Self:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=CUDA,
            requires_grad=False,
        )
        made.held = held
        return made

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"DeviceTensor({self.held!r})"

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        answer = _ANSWERS.get(func)
        if answer is not None and isinstance(args[0], DeviceTensor):
            return answer(args[0])
        with torch._C.DisableTorchFunctionSubclass():  # a copy on the CPU is a tensor like any other
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        message = f"{func} on a tensor of the emulated device, which this thread does not use"
        raise RuntimeError(message)


def _no_array(_tensor: DeviceTensor) -> Any:
    message = "can't convert cuda:0 device type tensor to numpy; copy it to the CPU first"
    raise TypeError(message)


_ANSWERS: dict[Any, Callable[[DeviceTensor], Any]] = {
    Tensor.data_ptr: lambda tensor: tensor.held.data_ptr(),
    Tensor.is_pinned: lambda _tensor: False,
    Tensor.tolist: lambda tensor: tensor.cpu().tolist(),
    Tensor.numpy: _no_array,
}


def mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return arguments or results with another tensor in each tensor's place."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)([mapped(change, item) for item in value])
    if isinstance(value, dict):
        return {name: mapped(change, item) for name, item in value.items()}
    return value


def data_of(tensor: Tensor) -> Tensor:
    """Return the data of a tensor of the device, and any other tensor as it is."""
    return tensor.held if isinstance(tensor, DeviceTensor) else tensor


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors among arguments or results."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return []
    return [tensor for item in value for tensor in tensors_in(item)]


def move_to_device(model: torch.nn.Module) -> torch.nn.Module:
    """Move a model's weights to the emulated device, in place; weights that were shared stay shared."""
    moved: dict[int, Tensor] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                key = id(weight)
                if key not in moved:
                    moved[key] = torch.nn.Parameter(DeviceTensor(weight.detach()), requires_grad=False)
                module._parameters[name] = moved[key]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = DeviceTensor(buffer.detach())
    return model
