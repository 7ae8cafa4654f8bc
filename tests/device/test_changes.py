"""What changes between calls and steps on the emulated device: adapters, modes, memory, rows."""

from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch

from device.emulation.tensors import move_to_device
from helpers.model_changes import ADAPTER_CHANGES, with_adapters
from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig
from lookahead.backends.cuda.attention_choice import without_cudnn
from lookahead.drafting.tree import DraftTree
from lookahead.hf.cache.bucket_cache import NotStaticError
from lookahead.hf.steps.cuda_graphs import GraphRunner
from lookahead.hf.steps.runner import Row, StepBatch

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


def test_attention_of_one_node_repeats_no_keys(monkeypatch):
    from lookahead.hf.attention import grouped_query

    monkeypatch.setattr(grouped_query, "sdpa_attention_forward", lambda *_, **__: pytest.fail("not grouped"))
    query, keys, values = torch.randn(2, 4, 1, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8)
    mask = torch.zeros(2, 1, 1, 6).masked_fill_(torch.rand(2, 1, 1, 6) < 0.3, torch.finfo(torch.float32).min)
    found, _ = grouped_query.attend_in_groups(torch.nn.Module(), query, keys, values, mask)
    repeated = (part.repeat_interleave(2, 1) for part in (keys, values))
    expected = torch.nn.functional.scaled_dot_product_attention(query, *repeated, attn_mask=mask)
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_a_rows_padding_is_counted_once(monkeypatch):
    own, counted = torch.Tensor.cumsum, []
    monkeypatch.setattr(torch.Tensor, "cumsum", lambda *given: counted.append(1) or own(*given))
    row = Row(0, padding=torch.tensor([0, 0, 1, 1]))
    cache = SimpleNamespace(arena=SimpleNamespace(lengths=[6]))
    for _ in range(5):
        batch = StepBatch([row], [DraftTree.root_only(3)], cache)
        assert batch.is_padded_left
        assert batch.tree_rows[0].left_padding == 2
    assert len(counted) <= 2


def test_cudnn_is_kept_out_of_our_attention_only_while_it_runs():
    assert torch.backends.cuda.cudnn_sdp_enabled()
    with without_cudnn(torch.device("cpu")):
        assert torch.backends.cuda.cudnn_sdp_enabled()
    with without_cudnn(torch.device("cuda")):
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize("has_experts", [True, False])
def test_one_route_of_experts_is_no_disagreement(has_experts):
    expected = torch.randn(1, 16, 50)
    logits = expected.clone()
    logits[0, 3] += 1.0  # one of 16 nodes
    kept = SimpleNamespace(agreed=set(), disagreements=0)
    runner = SimpleNamespace(
        _eager=SimpleNamespace(traits=SimpleNamespace(has_experts=has_experts)), _kept=kept
    )
    batch = SimpleNamespace(trees=[DraftTree.chain(list(range(16)))])
    assert GraphRunner._agrees(runner, logits, expected, batch, (True, 16)) is has_experts
    assert kept.agreed == ({(True, 16)} if has_experts else set())


def test_captured_steps_that_are_never_faster_are_left():
    kept = SimpleNamespace(speedups=[])
    runner = SimpleNamespace(_kept=kept, _model=SimpleNamespace(device=torch.device("cuda")))
    for _ in range(2):
        GraphRunner._compare_times(runner, 0.01, 0.02)
    with pytest.raises(NotStaticError, match="2 times as long"):
        GraphRunner._compare_times(runner, 0.01, 0.02)
    kept.speedups = [3.0]
    for _ in range(5):
        GraphRunner._compare_times(runner, 0.01, 0.02)
