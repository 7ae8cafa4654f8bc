"""A step under torch's FakeTensors on `cuda`: no operation mixes devices, reads a value, or copies unseen."""

from contextlib import closing

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from device.emulation import graphs
from device.emulation.device import EmulatedDevice, Kind
from device.emulation.fake import FakeCuda, MixedDevicesError
from helpers.samples import sampled
from helpers.tiny_models import prompt, tiny_model
from lookahead.backends.cuda.capture import NoCapture
from lookahead.drafting.tree import DraftTree
from lookahead.hf.attention import tree_kernel
from lookahead.hf.compat.layout import attention_layout, fresh_cache
from lookahead.hf.steps import cuda_graphs
from lookahead.hf.steps.cuda_graphs import CapturedModels
from lookahead.hf.support.trial import trial_step_model

FAMILIES = ["llama", "qwen2", "mistral", "gemma2", "gemma3", "mixtral", "gpt_oss", "deepseek_v3", "gpt2"]
_EAGER = "hf/steps/eager.py EagerRunner"
ARRIVES = "hf/steps/step_model.py TransformersStepModel.forward"
EAGER = {
    (Kind.TO_DEVICE, f"{_EAGER}.forward"): 2,  # tokens, positions
    (Kind.TO_DEVICE, f"{_EAGER}.mask_of"): 1,
    (Kind.BACK, ARRIVES): 1,
}
CAPTURED = {
    (Kind.TO_DEVICE, "backends/cuda/graphs.py StaticStep.__call__"): 1,
    (Kind.BACK, "backends/cuda/graphs.py StaticStep.copied_back"): 1,
}


@pytest.fixture
def fake_cuda(guard, monkeypatch):
    """The device of fakes, in the place of `torch.cuda`."""
    graphs.install(monkeypatch, EmulatedDevice())
    monkeypatch.setattr(tree_kernel, "why_no_kernel", lambda _device: "the test does without")
    monkeypatch.setattr(cuda_graphs, "_MIN_SPEEDUP", 0.0)  # seconds of fakes say nothing
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # numbers of the host reach the device by a copy
    yield FakeCuda()
    torch._C._set_only_lift_cpu_tensors(before)


def forked(size):
    """A tree of a chain with a fork after its root."""
    tree = DraftTree.chain([5] * (size - 1))
    parents = [*tree.parents, 0]
    depths = [*tree.depths, 1]
    return DraftTree(
        torch.arange(3, 3 + size, dtype=torch.int32).numpy(),
        torch.tensor(parents, dtype=torch.int32).numpy(),
        torch.tensor(depths, dtype=torch.int32).numpy(),
        torch.ones(size, dtype=torch.float64).numpy(),
    )


def copies_of_steps(fake, family, graphs_of_models):
    """The copies of five steps that each keep a path, by place."""
    model = tiny_model(family, torch.bfloat16)  # CUDA's products of groups take no other
    fake.move(model)
    layout, found = attention_layout(model, fresh_cache(model)), []
    with fake, torch.no_grad():
        prompt_ids = prompt(0)[0].tolist()
        with closing(
            trial_step_model(model, layout, prompt_ids, max_nodes=16, graphs=graphs_of_models)
        ) as steps:
            for _ in range(5):
                fake.copies.clear()
                logits = steps.forward({0: forked(8)})
                assert logits[0].device.type == "cuda"
                assert logits[0].shape == (8, 64)
                steps.keep({0: [0, 7]})
                found.append(dict(fake.copies))
    return found


@pytest.mark.matrix
@pytest.mark.parametrize("family", sampled(FAMILIES, ["llama", "gemma2", "gemma3", "mixtral"]))
def test_an_eager_step(family, fake_cuda):
    masks = 2 if family in ("gemma2", "gemma3", "gpt_oss") else 1
    expected = EAGER | {(Kind.TO_DEVICE, f"{_EAGER}.mask_of"): masks}
    for copies in copies_of_steps(fake_cuda, family, None):
        moves = {place: count for place, count in copies.items() if "PendingMoves" in place[1]}
        assert {place: count for place, count in copies.items() if place not in moves} == expected
        assert sum(moves.values()) <= 3


def agrees(runner, _logits, _expected, _batch, check):
    """Fakes have no values to compare."""
    runner._kept.agreed.add(check)
    return True


@pytest.mark.matrix
@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # fakes are at one address
@pytest.mark.parametrize("family", sampled(FAMILIES, ["llama", "gemma3"]))
def test_a_step_that_is_captured(family, fake_cuda, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "capture_for", lambda _device: NoCapture())
    monkeypatch.setattr(cuda_graphs, "unsupported_reason", lambda *_: "")  # a mode sees each operation
    monkeypatch.setattr(cuda_graphs.GraphRunner, "_agrees", agrees)
    monkeypatch.setattr(cuda_graphs, "_MIN_REPLAYS", 0)  # no replay is timed
    # The first is done as it is, the second captured, the third compared with the model's own code.
    assert copies_of_steps(fake_cuda, family, CapturedModels())[3:] == [CAPTURED] * 2


WRONG = {
    "mixes devices": (lambda tensor: tensor + torch.ones(4), MixedDevicesError),
    "an index of the host": (lambda tensor: tensor[torch.tensor([0, 1])], MixedDevicesError),
    "reads a value": (lambda tensor: tensor.sum().item(), DataDependentOutputException),
    "a shape by values": (lambda tensor: tensor[tensor > 0], DynamicOutputShapeException),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_on_a_device_raises(what, fake_cuda):
    wrong, error = WRONG[what]
    with fake_cuda:
        tensor = torch.ones(4, device="cuda")
        with pytest.raises(error):
            wrong(tensor)


def test_a_copy_is_counted_where_it_is(fake_cuda):
    with fake_cuda:
        assert torch.ones(4).to("cuda").cpu().tolist() == [0.0] * 4
        torch.ones(4, device="cuda").copy_(torch.ones(4))
        torch.tensor([1, 2], device="cuda")
    assert fake_cuda.copies == {(Kind.TO_DEVICE, "elsewhere"): 3, (Kind.BACK, "elsewhere"): 1}
