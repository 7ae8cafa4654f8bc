"""Steps that wait for the device: found before a capture, which such a step would spoil."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_WAITING = frozenset(
    (
        "aten::_local_scalar_dense",
        "aten::equal",
        "aten::masked_select",
        "aten::multinomial",
        "aten::nonzero",
        "aten::unique_dim",
        "aten::_unique2",
    )
)
"""Operations whose result depends on values that the host must know."""
_INDEXING = frozenset(("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"))
_COPYING = frozenset(("aten::_to_copy", "aten::copy_"))


class WaitError(RuntimeError):
    """A step waits for the device, so no graph can hold it."""


@contextmanager
def refuse_waits() -> Iterator[None]:
    """Raise `WaitError` where this thread's operations wait for the device."""
    with _RefuseWaits():  # type: ignore[no-untyped-call]
        yield


class _RefuseWaits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        is_inference = torch.is_inference_mode_enabled()
        if is_inference or any(isinstance(given, Tensor) and given.is_inference() for given in args):
            with self:  # operations made of others arrive here whole
                found = func.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        if _waits(func.name().partition(".")[0], args, kwargs):
            message = f"operation not permitted when stream is capturing: {func} waits for the device"
            raise WaitError(message)
        return func(*args, **kwargs)


def _waits(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    first = args[0] if args else None
    if not isinstance(first, Tensor):
        return False
    if name in _COPYING:
        other = args[1] if name == "aten::copy_" else kwargs.get("device")
        target = other.device if isinstance(other, Tensor) else other
        return target is not None and torch.device(target).type != first.device.type
    if first.device.type == "cpu":
        return False
    if name == "aten::repeat_interleave":
        return kwargs.get("output_size") is None
    if name in _INDEXING:
        indices = [index for index in args[1] if index is not None]
        return any(
            index.dtype in (torch.bool, torch.uint8) or index.device.type == "cpu" for index in indices
        )
    return name in _WAITING
