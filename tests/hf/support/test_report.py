"""`Lookahead.supports`: how a model will be decoded, and why not otherwise."""

import dataclasses
import json
from unittest.mock import Mock

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, LlamaForCausalLM

from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig, SupportReport
from lookahead.hf.steps.compiled_cpu import unsupported_reason
from lookahead.hf.steps.verification import VerificationMode
from lookahead.hf.support import report as report_module
from lookahead.hf.support.report import Backend, support_report
from lookahead.hf.support.reproducibility import ReproducibleMethod

CHECK_KEYS = {
    *("architecture", "dtype", "mode", "worst_logit_difference", "logit_spread", "reason"),
    *("why_not_cuda_graphs", "replay_speedup", "why_no_tree_kernel"),
    *("why_not_fused", "dependence_on_drafts", "reproducible"),
}
REPRODUCIBLE_KEYS = {
    *("way", "tokens_a_forward", "reason", "step_times_that_of_1_token", "step_times_that_of_8_tokens"),
}


def fused_model():
    model = tiny_model("fused-llama")
    if unsupported_reason(model):
        pytest.skip(f"no compiled step here: {unsupported_reason(model)}")
    return model


def test_a_model_that_is_decoded_by_its_own_code_says_why_no_better_way_is_taken():
    found = Lookahead.supports(tiny_model("gpt2"))
    assert (found.mode, found.backend, found.why_not_tree) == (VerificationMode.TREE, Backend.MODEL, "")
    assert found.is_supported
    assert "does not know it" in found.why_not_compiled_cpu
    assert found.why_not_cuda_graphs == "the model is on cpu, not on a CUDA device"
    assert found.why_rows_are_padded == ""
    assert found.dependence_on_drafts
    assert (found.reproducible_method, found.reproducible_width) == (ReproducibleMethod.FIXED_WIDTH, 16)
    assert 0 <= found.worst_logit_difference < found.logit_spread
    assert found.step_ratio_1 > 0


@pytest.mark.parametrize(
    ("family", "settings", "reason"),
    [
        ("doge", {}, "its rows have to be equally long"),
        ("bloom", {}, "its attention is a part of its own code"),
        ("gpt2", {"reproducible": True}, "reproducible=True gives all rows one width"),
        ("gpt2", {}, ""),
    ],
)
def test_it_says_whether_each_row_of_a_batch_has_its_own_number_of_tokens(family, settings, reason):
    found = Lookahead(LookaheadConfig(**settings)).supports(tiny_model(family))
    assert found.why_rows_are_padded == found.as_dict()["why_rows_are_padded"] == reason
    said = f"as wide as the largest draft: {reason}" if reason else "each has its own number of tokens"
    assert said in str(found)


def test_it_prints_aligned_lines():
    lines = str(Lookahead.supports(tiny_model("gpt2"))).splitlines()
    assert lines[0] == "model              GPT2LMHeadModel, float32, cpu"
    assert all(line[18] == " " and line[19] != " " for line in lines)
    assert [line.split("  ")[0] for line in lines] == [
        *("model", "verification", "backend", "", "", "rows of a batch", "logits", "depends on drafts"),
        *("prompts", "reproducible=True", ""),
    ]


def test_a_compiled_model_has_nothing_better():
    found = Lookahead.supports(fused_model())
    assert (found.mode, found.backend) == (VerificationMode.TREE, Backend.COMPILED_CPU)
    assert (found.why_not_compiled_cpu, found.dependence_on_drafts) == ("", "")
    assert found.reproducible_method is ReproducibleMethod.COMPILED
    assert "not " not in str(found)


def test_an_objects_own_settings_count():
    model = fused_model()
    found = Lookahead(LookaheadConfig(compiled_cpu=False)).supports(model)
    assert (found.backend, found.why_not_compiled_cpu) == (Backend.MODEL, "compiled_cpu=False")
    assert found.reproducible_method is ReproducibleMethod.FIXED_WIDTH
    gpt2 = tiny_model("gpt2")
    found = Lookahead(LookaheadConfig(reproducible=True, reproducible_width=8)).supports(gpt2)
    assert (found.mode, found.reproducible_width) == (VerificationMode.TREE, 8)
    assert found.dependence_on_drafts == ""
    found = Lookahead(LookaheadConfig(decoding_length=1)).supports(gpt2)
    assert (found.mode, found.why_not_tree) == (VerificationMode.PLAIN, "decoding_length=1 drafts nothing")
    found = Lookahead(LookaheadConfig(reproducible=True)).supports(tiny_model("bloom"))
    assert found.mode is VerificationMode.PLAIN
    assert "order of the text" in found.why_not_tree


@pytest.mark.parametrize(
    ("family", "mode", "reason"),
    [("jamba", VerificationMode.PLAIN, "cannot branch"), ("llama", VerificationMode.TREE, "")],
)
def test_it_says_what_a_call_does(family, mode, reason):
    model = tiny_model(family)
    found = Lookahead.supports(model)
    assert found.mode is mode
    assert reason in found.why_not_tree
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    if mode is VerificationMode.PLAIN:
        with pytest.warns(UserWarning, match="plain steps"):
            lookahead.generate(model, prompt(0), max_new_tokens=20, do_sample=False)
    else:
        lookahead.generate(model, prompt(0), max_new_tokens=20, do_sample=False)
    assert (lookahead.stats.draft_tokens > 0) is (mode is VerificationMode.TREE)


def test_refused_models_give_a_report():
    config = AutoConfig.for_model(
        "t5", vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )

    class OwnLoop(LlamaForCausalLM):
        def _sample(self, *_args, **_kwargs):
            return None

    own_loop = tiny_model("llama")
    own_loop.__class__ = OwnLoop
    for model, reason in (
        (AutoModelForSeq2SeqLM.from_config(config).eval(), "encoder-decoder"),
        (own_loop, "loop of its own"),
    ):
        found = Lookahead().supports(model)
        assert not found.is_supported
        assert reason in found.refusal
        assert str(found).splitlines()[1].startswith("supported          no: ")
        assert len(str(found).splitlines()) == 2
        assert found.as_dict()["reproducible"]["way"] is None


def test_a_model_in_training_mode_is_decoded_in_plain_steps():
    found = Lookahead.supports(tiny_model("llama").train())
    assert found.mode is VerificationMode.PLAIN
    assert "model.eval()" in found.why_not_tree
    assert "model.eval()" in str(found)


def test_it_changes_neither_the_model_nor_the_random_numbers():
    model = tiny_model("llama", rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    before = {name: tensor.clone() for name, tensor in (*model.named_buffers(), *model.named_parameters())}
    state, implementation = torch.get_rng_state(), model.config._attn_implementation
    text = model.generate(prompt(0), max_new_tokens=20, do_sample=False)
    torch.set_rng_state(state)
    Lookahead.supports(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.config._attn_implementation == implementation
    after = dict((*model.named_buffers(), *model.named_parameters()))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(model.generate(prompt(0), max_new_tokens=20, do_sample=False), text)


def test_the_dict_has_the_keys_of_lookahead_check_and_is_json():
    report = SupportReport(architecture="LlamaForCausalLM", dtype="float32", device="cpu")
    written = json.loads(json.dumps(report.as_dict()))
    assert set(written) >= CHECK_KEYS
    assert set(written["reproducible"]) >= REPRODUCIBLE_KEYS
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.mode = VerificationMode.TREE


class OnCuda:
    """Seen from outside, a model on a CUDA device."""

    device = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("settings", "mode", "reason"),
    [
        ({}, VerificationMode.TREE, ""),
        ({"cuda_graphs": False}, VerificationMode.TREE, "cuda_graphs=False"),
        ({"reproducible": True}, VerificationMode.TREE, "reproducible=True"),
        ({}, VerificationMode.CHAIN, "trees only"),
    ],
)
def test_why_cuda_graphs_are_not_used(monkeypatch, settings, mode, reason):
    monkeypatch.setattr(report_module, "unsupported_reason", lambda *_: "")
    monkeypatch.setattr(report_module, "ModelTraits", Mock())
    found = report_module._why_not_cuda_graphs(OnCuda(), LookaheadConfig(**settings), mode)
    assert reason in found
    assert bool(reason) is bool(found)


def test_without_settings_the_defaults_count():
    model = tiny_model("bloom")
    assert support_report(model) == support_report(model, LookaheadConfig())
