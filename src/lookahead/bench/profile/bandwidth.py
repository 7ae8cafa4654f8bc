"""The lower bound of a step's time: the bytes it reads ÷ the measured bandwidth of their memory."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

_PROBED_BYTES = {"cpu": 256 * 2**20}
"""Far more than the caches of a processor hold. A GPU is faster and reads more."""
_PROBED_BYTES_ELSEWHERE = 2**30
_PASSES = 8


@dataclass(frozen=True)
class Bandwidth:
    """The measured bandwidth of a device's memory.

    Attributes:
        bytes_per_s: Bytes read or written per second in the fastest pass.
        kernel: The kernel of that pass: sum or copy.
    """

    bytes_per_s: float
    kernel: str


def measured_bandwidth(
    device: torch.device, *, probed_bytes: int | None = None, clock: Callable[[], float] = perf_counter
) -> Bandwidth:
    """Return the highest bandwidth of two torch kernels on a device, with the current number of threads.

    A sum reads each byte once; a copy reads and writes it, so it counts twice.

    Args:
        device: The device.
        probed_bytes: Bytes to read; by default 256 MiB on a CPU, else 1 GiB.
        clock: Returns the time in seconds.
    """
    size = probed_bytes or _PROBED_BYTES.get(device.type, _PROBED_BYTES_ELSEWHERE)
    source = torch.ones(size // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)

    def add_up() -> None:
        torch.sum(source)

    def copy() -> None:
        target.copy_(source)

    kernels: list[tuple[str, int, Callable[[], None]]] = [
        ("sum", source.nbytes, add_up),
        ("copy", 2 * source.nbytes, copy),
    ]
    measured = [Bandwidth(moved / _fastest(kernel, device, clock), name) for name, moved, kernel in kernels]
    return max(measured, key=lambda found: found.bytes_per_s)


def weight_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of weights that a step reads: all parameters except input embeddings.

    A tied embedding is read once, as the output layer. All experts of a mixture are counted, although a step
    of few tokens reads only some of them.
    """
    whole = {id(parameter): parameter for parameter in model.parameters()}
    output = model.get_output_embeddings()
    read_as_output = None if output is None else getattr(output, "weight", None)
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.weight is not read_as_output:
            whole.pop(id(module.weight), None)
    return sum(parameter.nbytes for parameter in whole.values())


def cache_bytes(cache: object) -> int:
    """Return the bytes of keys and values in a cache of the library."""
    layers = getattr(cache, "layers", ())
    kept = (getattr(layer, name, None) for layer in layers for name in ("keys", "values"))
    return sum(tensor.nbytes for tensor in kept if isinstance(tensor, Tensor))


def _fastest(kernel: Callable[[], None], device: torch.device, clock: Callable[[], float]) -> float:
    """Return the seconds of the fastest pass, which was disturbed least."""
    seconds = []
    for _ in range(_PASSES):
        began = clock()
        kernel()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(clock() - began)
    return min(seconds)
