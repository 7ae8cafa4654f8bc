"""The one check that a model is unmodified, and the signature that shows when to check again."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

_MODULE_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_parametrizations")
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
    for name, module in model.named_modules():
        if "forward" in vars(module) or any(getattr(module, hooks, None) for hooks in _MODULE_HOOKS):
            return f"its {name} has a hook" if name else "it has a hook"
    return ""


def build_signature(model: PreTrainedModel) -> tuple[object, ...]:
    """Return what `modifications` and the weights' addresses depend on; takes microseconds per module."""
    found: list[object] = [torch.is_autocast_enabled(model.device.type), "_compiled_call_impl" in vars(model)]
    found.append(_has_global_hooks())
    waiting: list[nn.Module] = [model]
    while waiting:
        module = waiting.pop()
        state = vars(module)
        hooked = tuple(bool(state.get(hooks)) for hooks in _MODULE_HOOKS)
        found += [type(module), "forward" in state, hooked]
        for parameter in state["_parameters"].values():
            found += [type(parameter), None if parameter is None else parameter.data_ptr()]
        waiting += [child for child in state["_modules"].values() if child is not None]
    return tuple(found)


def rope_state(module: Any) -> tuple[dict[str, torch.Tensor | None], dict[str, Any]]:
    """Return copies of a rotary embedding's buffers and scalars, which dynamic RoPE types change."""
    buffers = {name: None if buffer is None else buffer.clone() for name, buffer in module._buffers.items()}
    attributes = {
        name: value.clone() if isinstance(value, torch.Tensor) else value
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | torch.Tensor)
    }
    return buffers, attributes


def restore_rope_state(module: Any, state: tuple[dict[str, torch.Tensor | None], dict[str, Any]]) -> None:
    """Restore what `rope_state` returned."""
    buffers, attributes = state
    module._buffers.update(buffers)
    vars(module).update(attributes)


def _has_global_hooks() -> bool:
    return any(getattr(nn.modules.module, hooks, None) for hooks in _GLOBAL_HOOKS)
