"""Whether torch splits a tensor between threads at multiples of its vector loop.

On the CPU, torch divides a tensor's elements among threads without regard to rows. The elements at the end of
a thread's part that do not fill a whole vector are computed by other code, whose sigmoid or tanh rounds
differently. A token's bits then depend on its row, unless every split is at a multiple of the vector loop.
"""

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.activations import ACT2CLS

_LOOP_ELEMENTS = 64
"""Elements per iteration of the widest vector loop: two AVX-512 registers of 16-bit numbers."""
_GRAIN = 32_768
"""Minimum number of elements that torch gives a thread."""
_KINDS: dict[str, Any] = dict(ACT2CLS)
_ACTIVATIONS = tuple(kind[0] if isinstance(kind, tuple) else kind for kind in _KINDS.values())


def misalignment_reason(model: PreTrainedModel, width: int, rows: int = 1) -> str:
    """Return why threads would split vectors in forward passes of `width` tokens per row; empty if not."""
    threads = torch.get_num_threads()
    unit_counts = _activation_units(model) if model.device.type == "cpu" else set()

    def split_units(tokens: int) -> set[int]:
        return {units for units in unit_counts if splits_vectors(rows * tokens * units, threads)}

    if not split_units(width):
        return ""
    fitting = next((other for other in range(16, 257) if not split_units(other)), None)
    advice = "fewer threads" if fitting is None else f"fewer threads or reproducible_width={fitting}"
    elements = f"{rows} x {width} x {max(split_units(width))}"
    return f"{threads} threads would split its {elements} activations inside vectors; give {advice}"


def splits_vectors(elements: int, threads: int) -> bool:
    """Return whether torch splits a tensor of that many elements inside an iteration of the vector loop."""
    tasks = min(threads, -(-elements // _GRAIN))
    part = -(-elements // tasks)
    return bool(elements % _LOOP_ELEMENTS or (tasks > 1 and part % _LOOP_ELEMENTS))


def _activation_units(model: PreTrainedModel) -> set[int]:
    """Return, for the model's activation functions, how many units per token they are applied to."""
    units = set()
    for module in model.modules():
        children = list(module.children())
        if any(isinstance(child, _ACTIVATIONS) for child in children):
            units.add(max(_inputs_of(child) for child in children))
    return units - {0}


def _inputs_of(module: torch.nn.Module) -> int:
    """Return the input units of a linear layer; 0 for other modules."""
    units = getattr(module, "in_features", None) or getattr(module, "nx", None)
    return units if isinstance(units, int) else 0
