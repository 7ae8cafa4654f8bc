"""What changes between calls and steps on the emulated device: adapters, modes, memory, rows."""

from contextlib import ExitStack

import pytest
import torch

from device.emulation.tensors import move_to_device
from helpers.model_changes import ADAPTER_CHANGES, with_adapters
from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig

GREEDY = {"max_new_tokens": 40, "do_sample": False}


def lookahead_of(**settings):
    return Lookahead(LookaheadConfig(decoding_length=12, **settings))


@pytest.mark.parametrize("change", ADAPTER_CHANGES)
def test_adapters_that_are_switched_are_captured_anew(change, emulated, device):
    model = move_to_device(with_adapters(tiny_model("llama")))
    token_ids, lookahead = prompt(0).to("cuda"), lookahead_of()
    before = model.generate(token_ids, **GREEDY).tolist()
    for _ in range(2):
        assert lookahead.generate(model, token_ids, **GREEDY).tolist() == before
    captures = device.captures
    assert captures
    with ExitStack() as undo:
        change(model, undo)
        after = model.generate(token_ids, **GREEDY).tolist()
        assert after != before
        for _ in range(2):
            assert lookahead.generate(model, token_ids, **GREEDY).tolist() == after
    assert device.captures > captures
    assert lookahead.generate(model, token_ids, **GREEDY).tolist() == before


@pytest.mark.parametrize(
    "modes", [(torch.inference_mode, torch.no_grad), (torch.no_grad, torch.inference_mode)]
)
def test_calls_in_inference_mode_and_outside(modes, on_device, device):
    model, token_ids, lookahead = on_device("llama"), prompt(0).to("cuda"), lookahead_of()
    expected = model.generate(token_ids, **GREEDY).tolist()
    for mode in modes * 2:
        with mode():
            assert lookahead.generate(model, token_ids, **GREEDY).tolist() == expected
    assert device.captures
    assert not any(part.is_inference() for part in (*model.parameters(), *model.buffers()))


def test_an_answer_that_outgrows_its_memory(on_device, device, monkeypatch):
    monkeypatch.setattr("lookahead.hf.steps.step_model._FIRST_CAPACITY_OF_GRAPHS", 4)
    monkeypatch.setattr("lookahead.decoding.kv_arena.GROWTH_SLOTS", 64)
    model, token_ids = on_device("llama", max_position_embeddings=1024), prompt(0).to("cuda")
    generation, lookahead = {"max_new_tokens": 330, "do_sample": False}, lookahead_of()
    expected = model.generate(token_ids, **generation).tolist()
    for _ in range(2):
        assert lookahead.generate(model, token_ids, **generation).tolist() == expected
    assert device.captures > 2


@pytest.mark.parametrize("samples", [False, True])
def test_rows_that_leave(samples, on_device, device):
    model, lookahead = on_device("llama"), lookahead_of()
    token_ids = torch.cat([prompt(seed) for seed in range(4)]).to("cuda")
    generation = {"max_new_tokens": 40, "do_sample": samples, "eos_token_id": [11, 20, 33, 34, 50]}
    for _ in range(2):
        torch.manual_seed(5)
        expected = model.generate(token_ids, pad_token_id=0, **generation)
        torch.manual_seed(5)
        found = lookahead.generate(model, token_ids, pad_token_id=0, **generation)
        assert found.tolist() == expected.tolist()
    assert device.captures


def test_the_auto_budget_measures_replays_and_learns_from_nothing_else(on_device, device, monkeypatch):
    from lookahead.drafting.drafter import BatchDrafter
    from lookahead.hf.steps.step_model import TransformersStepModel

    model, token_ids = on_device("llama"), prompt(0).to("cuda")
    usual, adapted = [], []
    forward, adapt = TransformersStepModel.forward, BatchDrafter.adapt

    def noted_forward(self, drafts):
        before = device.captures
        found = forward(self, drafts)
        usual.append(found.is_usual)
        assert not (found.is_usual and device.captures > before)
        return found

    def noted_adapt(self, *arguments):
        adapted.append(usual[-1])
        return adapt(self, *arguments)

    monkeypatch.setattr(TransformersStepModel, "forward", noted_forward)
    monkeypatch.setattr(BatchDrafter, "adapt", noted_adapt)
    lookahead = Lookahead(LookaheadConfig())
    expected = model.generate(token_ids, **GREEDY).tolist()
    assert lookahead.generate(model, token_ids, **GREEDY).tolist() == expected
    assert lookahead.stats.measure_s > 0
    assert not all(usual)
    assert adapted
    assert all(adapted)


def test_deterministic_algorithms(on_device, device):
    model, token_ids, lookahead = on_device("llama"), prompt(0).to("cuda"), lookahead_of()
    torch.use_deterministic_algorithms(True)
    try:
        expected = model.generate(token_ids, **GREEDY).tolist()
        for _ in range(2):
            assert lookahead.generate(model, token_ids, **GREEDY).tolist() == expected
    finally:
        torch.use_deterministic_algorithms(False)
    assert device.captures


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_experts_are_copied_for_a_few_tokens_only(family, on_device, device, monkeypatch):
    from transformers.integrations import moe

    own, tokens = moe.batched_mm_experts_forward, []

    def batched(self, hidden_states, *arguments, **given):
        tokens.append(len(hidden_states))
        return own(self, hidden_states, *arguments, **given)

    registry = moe.ALL_EXPERTS_FUNCTIONS
    monkeypatch.setitem(type(registry)._global_mapping, "batched_mm", batched)
    model, token_ids, lookahead = on_device(family), prompt(0).to("cuda"), lookahead_of()
    lookahead.generate(model, token_ids, **GREEDY)
    assert device.captures
    assert all(count <= 2 for count in tokens)
