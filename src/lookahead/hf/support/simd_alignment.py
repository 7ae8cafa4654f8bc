"""Where torch's threads cut a vector: an activation's last bits can depend on how far off the cut is.

On the CPU a tensor is cut among threads without regard to its rows. What is left before a cut, after the last
whole vector register, is computed by other code, whose sigmoid or tanh rounds differently. A token's bits
are then a matter of its row, unless every cut is at a multiple of what a vector loop takes at once.
"""

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.activations import ACT2CLS

_TAKEN_AT_ONCE = 64
"""Elements of a vector loop's turn, the most there are: two AVX-512 registers of 16-bit numbers."""
_GRAIN = 32_768
"""Elements that torch gives a thread at least."""
_KINDS: dict[str, Any] = dict(ACT2CLS)
_ACTIVATIONS = tuple(kind[0] if isinstance(kind, tuple) else kind for kind in _KINDS.values())


def why_cut(model: PreTrainedModel, shape: int, rows: int = 1) -> str:
    """Return why forwards of so many tokens a row are cut within vectors, in words; empty if they are not."""
    threads = torch.get_num_threads()
    widths = _activated_widths(model) if model.device.type == "cpu" else set()

    def cut_at(tokens: int) -> set[int]:
        return {width for width in widths if is_cut_within(rows * tokens * width, threads)}

    if not cut_at(shape):
        return ""
    fitting = next((other for other in range(16, 257) if not cut_at(other)), None)
    advice = "fewer threads" if fitting is None else f"fewer threads or reproducible_width={fitting}"
    elements = f"{rows} x {shape} x {max(cut_at(shape))}"
    return f"{threads} threads would cut its {elements} activations within vectors; give {advice}"


def is_cut_within(elements: int, threads: int) -> bool:
    """Return whether torch cuts so many elements anywhere but behind a whole turn of a vector loop."""
    tasks = min(threads, -(-elements // _GRAIN))
    part = -(-elements // tasks)
    return bool(elements % _TAKEN_AT_ONCE or (tasks > 1 and part % _TAKEN_AT_ONCE))


def _activated_widths(model: PreTrainedModel) -> set[int]:
    """Return how many units a token has where an activation function is applied to them."""
    widths = set()
    for module in model.modules():
        children = list(module.children())
        if any(isinstance(child, _ACTIVATIONS) for child in children):
            taken = [_inputs_of(child) for child in children]
            widths.add(max(taken))
    return widths - {0}


def _inputs_of(module: torch.nn.Module) -> int:
    """Return how many units a linear layer reads; 0 for other modules."""
    read = getattr(module, "in_features", None) or getattr(module, "nx", None)
    return read if isinstance(read, int) else 0
