"""The emulated CUDA device, and models on it."""

from collections.abc import Callable, Iterator

import pytest
import torch
from transformers import PreTrainedModel

from device.emulation import graphs
from device.emulation.device import EmulatedDevice, used
from device.emulation.guard import install_guard, why_no_emulation
from device.emulation.tensors import move_to_device
from helpers.tiny_models import tiny_model
from lookahead.hf.compat import modifications
from lookahead.hf.compat.fingerprint import places


@pytest.fixture(scope="session")
def guard() -> None:
    """The device guard without which a build of torch for the CPU runs nothing on tensors of CUDA."""
    reason = why_no_emulation()
    if reason:
        pytest.skip(reason)
    install_guard()


@pytest.fixture
def emulated(guard: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[graphs.EmulatedCuda]:
    """The emulated device, in the place of `torch.cuda`; this thread may use it."""
    device = EmulatedDevice()
    cuda = graphs.install(monkeypatch, device)

    def is_observed() -> bool:
        return torch._C._len_torch_dispatch_stack() > 1  # but for the emulation itself

    monkeypatch.setattr(modifications, "is_observed", is_observed)
    monkeypatch.setattr(places, "is_observed", is_observed)
    with used(device):
        yield cuda


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
