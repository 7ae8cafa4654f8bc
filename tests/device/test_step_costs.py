"""What a step may cost on the device: a wait, copy or launch at a place that is not listed fails."""

from collections import Counter

import pytest
import torch

from device.emulation.device import Kind
from helpers.tiny_models import prompt
from lookahead import Lookahead, LookaheadConfig
from lookahead.hf.steps.step_model import TransformersStepModel

GREEDY = {"max_new_tokens": 60, "do_sample": False}
SAMPLING = {
    "max_new_tokens": 40,
    "do_sample": True,
    "temperature": 0.8,
    "top_k": 20,
    "repetition_penalty": 1.1,
}
_STEP = "backends/cuda/graphs.py StaticStep.__call__"
_BACK = "backends/cuda/graphs.py StaticStep.copied_back"
CAPTURED_GREEDY = {
    (Kind.TO_DEVICE, _STEP): 1,
    (Kind.BACK, _BACK): 1,
    (Kind.WAIT, _BACK): 1,
    (Kind.REPLAY, "backends/cuda/capture.py CudaCapture.__call__.<locals>.replay"): 1,
}
"""By kind and place, how often in a step."""


@pytest.fixture
def steps(device, monkeypatch):
    """The events of each step, from its forward pass to the next."""
    found, own = [], TransformersStepModel.forward

    def forward(self, drafts):
        found.append(list(device.events))
        device.clear()
        return own(self, drafts)

    monkeypatch.setattr(TransformersStepModel, "forward", forward)
    return found


def counted(events):
    return dict(Counter((event.kind, event.place) for event in events))


def warm_steps(model, token_ids, steps, device, generation, **settings):
    """The events of the steps of a call that captures nothing, without the first and the last."""
    lookahead = Lookahead(LookaheadConfig(decoding_length=12, **settings))
    for call in range(6):  # drafts of new sizes may come up for a few calls
        torch.manual_seed(5)
        steps.clear()
        captures = device.captures
        lookahead.generate(model, token_ids, **generation)
        if call > 1 and device.captures == captures:
            break
    assert device.captures == captures
    assert lookahead.stats.mean_acceptance_length > 1.2
    assert len(steps) > 2
    return steps[1:]


def test_a_captured_greedy_step(on_device, device, steps):
    model, token_ids = on_device("llama"), prompt(0).to("cuda")
    found = warm_steps(model, token_ids, steps, device, GREEDY)
    assert [counted(events) for events in found] == [CAPTURED_GREEDY] * len(found)


def test_a_captured_greedy_step_of_a_batch(on_device, device, steps):
    model = on_device("llama")
    token_ids = torch.cat([prompt(seed) for seed in range(3)]).to("cuda")
    found = warm_steps(model, token_ids, steps, device, GREEDY)
    assert [counted(events) for events in found] == [CAPTURED_GREEDY] * len(found)


def test_moves_that_no_step_has_room_for_cost_one_copy(on_device, device, steps, monkeypatch):
    monkeypatch.setattr("lookahead.hf.steps.cuda_graphs.MAX_MOVES", 0)
    model, token_ids = on_device("llama"), prompt(0).to("cuda")
    found = warm_steps(model, token_ids, steps, device, GREEDY)
    extra = Counter()
    for events in found:
        extra |= Counter(counted(events)) - Counter(CAPTURED_GREEDY)
    assert extra == {
        (Kind.TO_DEVICE, "decoding/kv_slab.py PendingMoves.apply"): 1,
        (Kind.WAIT, "decoding/kv_slab.py PendingMoves.apply"): 1,
        (Kind.LAUNCH, "decoding/kv_slab.py Slab.move"): 4,
    }


def test_a_greedy_step_that_is_not_captured(on_device, device, steps):
    model, token_ids = on_device("llama"), prompt(0).to("cuda")
    found = warm_steps(model, token_ids, steps, device, GREEDY, cuda_graphs=False)
    for events in found:
        waits = [event for event in events if event.kind is Kind.WAIT]
        backs = [event for event in events if event.kind is Kind.BACK]
        # tokens, positions, mask and moves go to the device, one summary comes back
        assert len(waits) <= 5, counted(waits)
        assert len(backs) == 1


@pytest.mark.parametrize("rows", [1, 3])
def test_a_captured_sampled_step_waits_twice(rows, on_device, device, steps):
    model = on_device("llama")
    token_ids = torch.cat([prompt(seed) for seed in range(rows)]).to("cuda")
    found = warm_steps(model, token_ids, steps, device, SAMPLING)
    walk = "decoding/sampling/device_walk.py"
    for events in found:
        by_kind = {kind: Counter(event.place for event in events if event.kind is kind) for kind in Kind}
        assert by_kind[Kind.WAIT] == {_BACK: 1, f"{walk} sample_down": 1}
        assert by_kind[Kind.BACK] == {_BACK: 1, f"{walk} sample_down": 1}
        assert by_kind[Kind.TO_DEVICE] == {_STEP: 1, f"{walk} _on_device": 1}
