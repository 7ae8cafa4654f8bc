"""Which of torch's attention kernels serve our forward passes on a CUDA device."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

_CHOSEN = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_SWITCHING = RLock()
"""The choice is a flag of the process: threads that change it must restore it in order."""


@contextmanager
def without_cudnn(device: torch.device) -> Iterator[None]:
    """Keep cuDNN's attention out of a forward pass on a CUDA device, one at a time; elsewhere do nothing.

    Torch prefers it on recent devices, masks included. It plans anew for every shape, and a tree's number of
    keys is another one at each step.
    """
    if device.type != "cuda":
        yield
        return
    with _SWITCHING, sdpa_kernel(_CHOSEN):
        yield
