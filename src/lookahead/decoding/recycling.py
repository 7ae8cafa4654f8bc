"""What the model itself holds most likely next, picked out of the logits that verification needed anyway."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookahead.drafting.compilation import kernel, lean_kernel
from lookahead.drafting.successors import SUCCESSORS
from lookahead.drafting.tree import Int32Array

_AS_INTEGERS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
_STRETCH = 256
"""Logits of which the largest is found first: hardly any stretch has one that counts."""


def likeliest_successors(logits: Tensor) -> Int32Array:
    """Return each node's likeliest next tokens, likeliest first; of equal ones the lowest first, on the CPU.

    Args:
        logits: [n, V], as the model gave them, before any processor.

    Returns:
        int32 [n, k] on the CPU, k at most SUCCESSORS.
    """
    count = min(SUCCESSORS, logits.shape[-1])
    integers = _AS_INTEGERS.get(logits.dtype)
    if logits.device.type != "cpu" or integers is None:
        found: Int32Array = logits.topk(count).indices.to("cpu", torch.int32).numpy()
        return found
    likeliest = np.empty((len(logits), count), np.int32)
    pick_largest(logits.detach().contiguous().view(integers).numpy(), likeliest)
    return likeliest


@lean_kernel
def _in_order(bits: int, shift: int) -> int:
    """Return an integer ordered as the floating-point number of these bits is: negative ones turn round."""
    return bits ^ ((bits >> shift) & ((1 << shift) - 1))


@lean_kernel
def _largest_of(bits: Any, shift: int) -> int:
    """Return the largest of some numbers, as an integer in order."""
    largest = _in_order(bits[0], shift)
    for place in range(len(bits)):
        number = _in_order(bits[place], shift)
        largest = max(largest, number)  # `max` would be slower by far
    return largest


@kernel
def pick_largest(bits: Any, out: Int32Array) -> None:
    """Write the places of each row's largest numbers, the largest first, of equal ones the first.

    Args:
        bits: int16 or int32 [n, V], the numbers' bits; a NaN is the largest, a negative one the least.
        out: int32 [n, k], k at most V.
    """
    shift, count = 8 * bits.itemsize - 1, out.shape[1]
    largest = np.empty(count, np.int64)
    for row in range(len(bits)):
        line, places, held = bits[row], out[row], 0
        for start in range(0, len(line), _STRETCH):
            stretch = line[start : start + _STRETCH]
            if held == count and _largest_of(stretch, shift) <= largest[count - 1]:
                continue
            for place in range(len(stretch)):
                number = _in_order(stretch[place], shift)
                if held < count or number > largest[count - 1]:
                    held = _put_in(number, start + place, largest, places, held)


@lean_kernel
def _put_in(number: int, place: int, largest: Any, places: Any, held: int) -> int:
    """Put a number among the largest so far; return how many are held."""
    at = min(held, len(largest) - 1)
    while at > 0 and largest[at - 1] < number:
        largest[at], places[at] = largest[at - 1], places[at - 1]
        at -= 1
    largest[at], places[at] = number, place
    return min(held + 1, len(largest))
