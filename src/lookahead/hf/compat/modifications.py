"""The one check that a model is unmodified."""

from typing import Any

import torch
from torch import nn
from torch.utils._device import DeviceContext
from transformers import PreTrainedModel

_MODULE_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_parametrizations")
_CALLS = frozenset(("forward", "_call_impl", "_wrapped_call_impl", "_slow_forward"))
_GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks")


def modifications(model: PreTrainedModel) -> str:
    """Return how a model's `forward` was modified, in words; empty if it was not.

    The compiled CPU decoder and CUDA graphs would bypass these modifications: compilation, mixed precision,
    hooks of one module or of all modules, a `forward` set on a single module.
    """
    if getattr(model, "_compiled_call_impl", None) is not None:
        return "it is compiled"
    if torch.is_autocast_enabled(model.device.type):
        return "it computes in mixed precision"
    if _has_global_hooks():
        return "all modules have a hook"
    if is_observed():
        return "a mode of torch sees or replaces each of its operations"
    for name, module in model.named_modules():
        change = _modification(module)
        if change:
            return f"its {name} {change}" if name else f"it {change}"
    return ""


def _modification(module: nn.Module) -> str:
    if any(getattr(module, hooks, None) for hooks in _MODULE_HOOKS):
        return "has a hook"
    if has_own_forward(module):
        return "has a hook of accelerate" if hasattr(module, "_hf_hook") else "has a forward of its own"
    return ""


def replaces_forwards(model: PreTrainedModel) -> bool:
    """Return whether `forward` was set on single modules: by accelerate's hooks, by kernels, by a patch."""
    return any(map(has_own_forward, modules_of(model)))


def is_observed() -> bool:
    """Return whether a mode of torch, such as a counter of operations, sees each operation of this thread."""
    overrides: Any = torch.overrides
    modes = overrides._get_current_function_mode_stack()
    are_defaults = all(isinstance(mode, DeviceContext) for mode in modes)  # `torch.set_default_device`
    return not are_defaults or torch._C._len_torch_dispatch_stack() > 0


def hooks_of(module: nn.Module) -> tuple[dict[Any, Any], ...]:
    """Return the hooks that a module calls in a forward pass, as the dictionaries that hold them."""
    state = vars(module)
    return state["_forward_hooks"], state["_forward_pre_hooks"]


def has_own_forward(module: nn.Module) -> bool:
    """Return whether `forward`, or how it is called, was set on a single module."""
    return not _CALLS.isdisjoint(vars(module))


def modules_of(model: nn.Module) -> list[nn.Module]:
    """Return a model's modules, each once; several times as fast as `modules`."""
    found: dict[int, nn.Module] = {}
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if id(module) not in found:
            found[id(module)] = module
            waiting += [child for child in vars(module)["_modules"].values() if child is not None]
    return list(found.values())


RopeState = tuple[dict[str, tuple[Any, Any]], dict[str, Any]]
"""A rotary embedding's buffers with copies of their contents, and its scalars."""


def rope_state(module: Any) -> RopeState:
    """Return a rotary embedding's buffers and scalars, which dynamic RoPE types change."""
    buffers = {
        name: (buffer, None if buffer is None else buffer.clone()) for name, buffer in module._buffers.items()
    }
    attributes = {
        name: value.clone() if isinstance(value, torch.Tensor) else value
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | torch.Tensor)
    }
    return buffers, attributes


def restore_rope_state(module: Any, state: RopeState) -> None:
    """Restore what `rope_state` returned: the same tensors, with what they held.

    The copies do not take their place: in inference mode they are tensors that no training may use.
    """
    buffers, attributes = state
    for name, (buffer, held) in buffers.items():
        if buffer is not None and not torch.equal(buffer, held):
            buffer.copy_(held)
        module._buffers[name] = buffer
    vars(module).update(attributes)


def _has_global_hooks() -> bool:
    return any(getattr(nn.modules.module, hooks, None) for hooks in _GLOBAL_HOOKS)
