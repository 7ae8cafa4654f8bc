"""The emulated CUDA device, and models on it."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from device.emulation import graphs
from device.emulation.device import EmulatedDevice, used
from device.emulation.guard import install_guard, why_no_emulation
from device.emulation.tensors import move_to_device
from helpers.tiny_models import tiny_model
from lookahead.hf.attention import tree_kernel
from lookahead.hf.compat import modifications
from lookahead.hf.compat.fingerprint import places
from lookahead.hf.steps import cuda_graphs


@pytest.fixture(scope="session")
def guard() -> None:
    """The device guard without which a build of torch for the CPU runs nothing on tensors of CUDA."""
    reason = why_no_emulation()
    if reason:
        pytest.skip(reason)
    install_guard()


@pytest.fixture(scope="session")
def interpreted_kernels() -> Iterator[None]:
    """Our Triton kernels, run by Triton's interpreter on the CPU."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")  # which is read where a function is defined, Triton's own too
        for name in [name for name in sys.modules if name.partition(".")[0] == "triton"]:
            if not name.startswith("triton._C"):  # which is loaded once per process
                patch.delitem(sys.modules, name)
        interpreter = importlib.import_module("triton.runtime.interpreter")
        patch_tensor = interpreter._patch_lang_tensor

        def patch_tensor_for_numpy(tensor: Any, scope: Any) -> None:
            patch_tensor(tensor, scope)
            # numpy 2.4 turns no array of one number into an int, as Triton 3.6 asks it to
            scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

        patch.setattr(interpreter, "_patch_lang_tensor", patch_tensor_for_numpy)
        patch.delitem(sys.modules, "lookahead.backends.cuda.tree_kernel", raising=False)
        importlib.import_module("lookahead.backends.cuda.tree_kernel")
        yield


@pytest.fixture
def emulated(guard: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[graphs.EmulatedCuda]:
    """The emulated device, in the place of `torch.cuda`; this thread may use it."""
    device = EmulatedDevice()
    cuda = graphs.install(monkeypatch, device)

    def is_observed() -> bool:
        return torch._C._len_torch_dispatch_stack() > 1  # but for the emulation itself

    monkeypatch.setattr(modifications, "is_observed", is_observed)
    monkeypatch.setattr(places, "is_observed", is_observed)
    monkeypatch.setattr(tree_kernel, "why_no_kernel", lambda _device: "the test does without")
    monkeypatch.setattr(cuda_graphs, "_MIN_SPEEDUP", 0.0)  # seconds of the emulation say nothing
    with used(device):
        yield cuda


@pytest.fixture
def with_kernels(
    emulated: graphs.EmulatedCuda, interpreted_kernels: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let captured steps attend by our kernels, which Triton interprets."""
    monkeypatch.setattr(tree_kernel, "why_no_kernel", lambda _device: "")


@pytest.fixture
def device(emulated: graphs.EmulatedCuda) -> EmulatedDevice:
    """What the emulated device notes."""
    return emulated.device


@pytest.fixture
def on_device(emulated: graphs.EmulatedCuda) -> Callable[..., PreTrainedModel]:
    """Returns a tiny model of a family on the emulated device."""

    def model_of(family: str, dtype: torch.dtype = torch.float32, **settings: object) -> PreTrainedModel:
        model = tiny_model(family, dtype, **settings)
        move_to_device(model)
        return model

    return model_of
