"""How fast a step could be at best: the bytes it reads, by the bandwidth measured of their memory."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

_PROBED_BYTES = {"cpu": 256 * 2**20}
"""Far more than a processor's caches hold; a GPU is faster, and gets more to do."""
_PROBED_BYTES_ELSEWHERE = 2**30
_PASSES = 8


@dataclass(frozen=True)
class Bandwidth:
    """What was measured of a device's memory.

    Attributes:
        bytes_per_s: bytes read, or read and written, a second, by the fastest pass.
        kernel: which kernel reached that: sum or copy.
    """

    bytes_per_s: float
    kernel: str


def measured_bandwidth(
    device: torch.device, *, probed_bytes: int | None = None, clock: Callable[[], float] = perf_counter
) -> Bandwidth:
    """Return the most that a kernel of torch's got out of the device's memory, with the threads that are set.

    A sum reads each byte once; a copy reads and writes it, which counts twice.

    Args:
        device: whose memory.
        probed_bytes: how much to read; 256 MiB on a CPU, else 1 GiB if not given.
        clock: seconds, from anywhere.
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
    """Return the bytes of weights that a step reads: all parameters, but of embeddings only looked-up rows.

    An embedding that is the output layer as well is read whole, once. Of a mixture of experts all experts are
    counted, of which a step of few tokens reads only some.
    """
    whole = {id(parameter): parameter for parameter in model.parameters()}
    output = model.get_output_embeddings()
    read_as_output = None if output is None else getattr(output, "weight", None)
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.weight is not read_as_output:
            whole.pop(id(module.weight), None)
    return sum(parameter.nbytes for parameter in whole.values())


def cache_bytes(cache: object) -> int:
    """Return the bytes of keys and values in a cache of the library's."""
    layers = getattr(cache, "layers", ())
    kept = (getattr(layer, name, None) for layer in layers for name in ("keys", "values"))
    return sum(tensor.nbytes for tensor in kept if isinstance(tensor, Tensor))


def _fastest(kernel: Callable[[], None], device: torch.device, clock: Callable[[], float]) -> float:
    """Return the seconds of the fastest pass: what disturbs a pass makes it slower."""
    seconds = []
    for _ in range(_PASSES):
        began = clock()
        kernel()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(clock() - began)
    return min(seconds)
