"""What is not exactly as the library makes it has its own code run; weights are read as they are now."""

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.fused_steps import fused_steps
from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig
from lookahead.backends.cpu import team
from lookahead.backends.cpu.decoder import CpuDecoder
from lookahead.decoding.kv_arena import KVArena
from lookahead.hf.steps import compiled_cpu as fused_model
from lookahead.hf.steps.compiled_cpu import unsupported_reason
from lookahead.hf.steps.verification import COMPILED, VerificationMode
from lookahead.hf.support.probe import probe

__all__ = ["fused_steps"]
GREEDY = {"max_new_tokens": 16, "do_sample": False}
SAMPLING = {"max_new_tokens": 16, "do_sample": True, "temperature": 0.8}


def assert_same_text(model, lookahead=None):
    lookahead = lookahead or Lookahead(LookaheadConfig(decoding_length=8))
    for settings in (GREEDY, SAMPLING):
        torch.manual_seed(5)
        expected = model.generate(prompt(0), **settings).tolist()
        torch.manual_seed(5)
        assert lookahead.generate(model, prompt(0), **settings).tolist() == expected
    assert lookahead.stats.draft_tokens > 0
    return lookahead


def shifted(states):
    return states + 0.25 * states.roll(1, dims=-1)


def hooked(model):
    model.model.layers[1].mlp.register_forward_hook(lambda _module, _inputs, output: shifted(output))


def hooked_before(model):
    model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(
        lambda _module, inputs: shifted(inputs[0])
    )


def hooked_embeddings(model):
    model.get_input_embeddings().register_forward_hook(lambda _module, _inputs, output: shifted(output))


def given_a_forward_of_its_own(model):
    layer = model.model.layers[0].mlp
    own = layer.forward
    layer.forward = lambda states: shifted(own(states))


def given_a_layer_of_another_class(model):
    class Shifted(nn.Linear):
        def forward(self, states):
            return shifted(super().forward(states))

    model.model.layers[1].mlp.up_proj.__class__ = Shifted


def parametrized(model):
    class Halved(nn.Module):
        def forward(self, weight):
            return weight / 2

    nn.utils.parametrize.register_parametrization(model.model.layers[0].mlp.down_proj, "weight", Halved())


def given_a_weight_of_a_kind_of_its_own(model):
    class Marked(torch.Tensor):
        pass

    weight = model.model.layers[0].mlp.down_proj.weight.detach().as_subclass(Marked)
    model.model.layers[0].mlp.down_proj.weight = nn.Parameter(weight)


def scattered(model):
    linear = model.model.layers[0].mlp.down_proj
    linear.weight = nn.Parameter(linear.weight.detach().T.contiguous().T)


def pruned(model):
    """Leave out a third of one layer's gated units."""
    units = model.model.layers[1].mlp
    for linear in (units.gate_proj, units.up_proj):
        linear.weight = nn.Parameter(linear.weight.detach()[:64].clone())
    units.down_proj.weight = nn.Parameter(units.down_proj.weight.detach()[:, :64].clone())


CHANGES = {
    hooked: "model.layers.1.mlp has a hook",
    hooked_before: "model.layers.0.self_attn.o_proj has a hook",
    hooked_embeddings: "model.embed_tokens has a hook",
    given_a_forward_of_its_own: "model.layers.0.mlp has a forward of its own",
    given_a_layer_of_another_class: "up_proj is a Shifted",
    parametrized: "down_proj is a Parametrized",
    given_a_weight_of_a_kind_of_its_own: "are not plain parameters",
    scattered: "not all contiguous",
    pruned: "not all of one shape",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_served_by_its_own_code(change, fused_steps):
    model = tiny_model("fused-llama")
    lookahead = assert_same_text(model)
    assert fused_steps.taken() > 0
    change(model)
    assert CHANGES[change] in unsupported_reason(model)
    assert_same_text(model, lookahead)
    assert fused_steps.taken() == 0


@pytest.mark.parametrize(
    "register",
    [nn.modules.module.register_module_forward_hook, nn.modules.module.register_module_forward_pre_hook],
)
def test_a_hook_of_all_modules_sees_them_all(register, fused_steps):
    model, seen = tiny_model("fused-llama"), []
    lookahead = assert_same_text(model)
    fused_steps.taken()
    handle = register(lambda module, *_arguments: seen.append(type(module)))
    try:
        assert "all modules" in unsupported_reason(model)
        lookahead.generate(model, prompt(0), **GREEDY)
    finally:
        handle.remove()
    assert fused_steps.taken() == 0
    assert len(seen) > len(list(model.modules())) * lookahead.last_stats.forwards / 2
    assert unsupported_reason(model) == ""


SETTINGS = {
    "hidden_act": ({"hidden_act": "gelu"}, "GELU"),
    "biases of attention": ({"attention_bias": True}, "biases"),
    "biases of units": ({"mlp_bias": True}, "biases"),
    "narrow heads": ({"head_dim": 16}, "multiples"),
    "a small vocabulary": ({"vocab_size": 15}, "15 tokens"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_model_of_other_settings_is_served_by_its_own_code(name, fused_steps):
    settings, reason = SETTINGS[name]
    model = tiny_model("fused-llama", **settings)
    assert reason in unsupported_reason(model)
    if name != "a small vocabulary":  # the prompt's tokens are more
        assert_same_text(model)
    assert fused_steps.taken() == 0


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen2_moe", "gpt2"])
def test_other_families_and_sizes(family):
    assert unsupported_reason(tiny_model(family))


def test_double_precision(fused_steps):
    model = tiny_model("fused-llama", torch.float64)
    assert "torch.float64" in unsupported_reason(model)
    assert_same_text(model)
    assert fused_steps.taken() == 0


def test_float16(fused_steps):
    model = tiny_model("fused-llama", torch.float16)
    assert "torch.float16" in unsupported_reason(model)
    Lookahead(LookaheadConfig(decoding_length=8)).generate(model, prompt(0), **GREEDY)
    assert fused_steps.taken() == 0


def test_another_device():
    assert unsupported_reason(tiny_model("fused-llama").to("meta")) == "it is on meta, not on the CPU"


def test_a_compiled_model(fused_steps):
    model = tiny_model("fused-llama")
    model._compiled_call_impl = model._call_impl  # as `model.compile()` does, with something quicker to make
    assert "compiled" in unsupported_reason(model)
    assert_same_text(model)
    assert fused_steps.taken() == 0


@pytest.mark.filterwarnings("ignore:.*is decoded in plain steps")  # on some processors, bfloat16 is noisier
def test_mixed_precision(fused_steps):
    model = tiny_model("fused-llama")
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    with torch.autocast("cpu", torch.bfloat16):
        assert "mixed precision" in unsupported_reason(model)
        lookahead.generate(model, prompt(0), **GREEDY)
        assert fused_steps.taken() == 0
    assert_same_text(model, lookahead)
    assert fused_steps.taken() > 0


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_an_adapter(fused_steps):
    peft = pytest.importorskip("peft")
    model = tiny_model("fused-llama")
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], r=4)
    adapted = peft.get_peft_model(model, config).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    assert "q_proj is a Linear" in unsupported_reason(model)
    assert_same_text(model)
    assert_same_text(adapted)
    assert fused_steps.taken() == 0
    merged = adapted.merge_and_unload()
    assert unsupported_reason(merged) == ""
    assert_same_text(merged)
    assert fused_steps.taken() > 0


def test_torch_without_openmp(monkeypatch, fused_steps):
    monkeypatch.setattr(fused_model, "torch_thread_team", lambda: None)
    model = tiny_model("fused-llama")
    assert "does not use OpenMP" in unsupported_reason(model)
    assert_same_text(model)
    assert fused_steps.taken() == 0
    assert team.torch_thread_team() is not None


def test_a_processor_without_fused_multiply_add(monkeypatch, fused_steps):
    monkeypatch.setattr(fused_model, "multiplies_and_adds", lambda: False)
    model = tiny_model("fused-llama")
    assert "no fused multiply-add" in unsupported_reason(model)
    assert_same_text(model)
    assert fused_steps.taken() == 0


def test_dropout_is_left_to_the_models_own_code(fused_steps):
    model = tiny_model("fused-llama").train()
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    expected = model.generate(prompt(0), **GREEDY).tolist()
    assert lookahead.generate(model, prompt(0), **GREEDY).tolist() == expected
    assert fused_steps.taken() == 0


def changed_in_place(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def loaded_in_place(model):
    model.load_state_dict(tiny_model("fused-llama", initializer_range=0.2).state_dict())


def assigned(model):
    model.load_state_dict(tiny_model("fused-llama", initializer_range=0.2).state_dict(), assign=True)


def converted_and_back(model):
    model.to(torch.bfloat16).to(torch.float32)


@pytest.mark.parametrize("change", [changed_in_place, loaded_in_place, assigned, converted_and_back])
def test_weights_that_change_between_two_calls(change, fused_steps):
    model = tiny_model("fused-llama")
    lookahead = assert_same_text(model)
    before = model(prompt(0)).logits
    change(model)
    assert not torch.equal(model(prompt(0)).logits, before)
    fused_steps.taken()
    assert_same_text(model, lookahead)
    assert fused_steps.taken() > 0


def test_another_vocabulary(fused_steps):
    model = tiny_model("fused-llama")
    assert_same_text(model)
    model.resize_token_embeddings(150)
    fused_steps.taken()
    assert_same_text(model)
    assert fused_steps.taken() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_probe_trusts_fused_steps(dtype):
    result = probe(tiny_model("fused-qwen3", dtype), tries_compiled=True)
    assert result.verification is COMPILED
    assert result.mode is VerificationMode.TREE
    assert 0 <= result.difference < result.spread


def test_the_probe_does_not_try_what_it_is_not_told_to():
    assert not probe(tiny_model("fused-qwen3")).verification.is_compiled


@pytest.mark.parametrize("fault", ["wrong logits", "no numbers", "an error"])
def test_fused_steps_that_go_wrong_are_not_trusted(fault, monkeypatch):
    forward = CpuDecoder.forward

    def faulty(self, *arguments):
        if fault == "an error":
            message = "not today"
            raise RuntimeError(message)
        logits = forward(self, *arguments)
        return logits.roll(1, dims=-1) if fault == "wrong logits" else logits * torch.nan

    monkeypatch.setattr(CpuDecoder, "forward", faulty)
    model = tiny_model("fused-llama")
    result = probe(model, tries_compiled=True)
    assert result.mode is VerificationMode.TREE
    assert not result.verification.is_compiled
    assert_same_text(model)


def test_an_arena_of_another_kind_is_left_to_the_models_own_code(monkeypatch, fused_steps):
    model = tiny_model("fused-llama")
    lookahead = assert_same_text(model)
    assert fused_steps.taken() > 0
    monkeypatch.setattr(KVArena, "claim_for_writing", lambda *_arguments: None)
    assert_same_text(model, lookahead)
    assert fused_steps.taken() == 0


@pytest.mark.parametrize("mode", [TorchFunctionMode, TorchDispatchMode])
def test_a_mode_of_torch_sees_the_operations(mode, fused_steps):
    model, seen = tiny_model("fused-llama"), []

    class Counting(mode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

        __torch_dispatch__ = __torch_function__

    lookahead = assert_same_text(model)
    fused_steps.taken()
    with Counting():
        assert "a mode of torch" in unsupported_reason(model)
        lookahead.generate(model, prompt(0), **GREEDY)
    assert fused_steps.taken() == 0
    assert len(seen) > 1000
    with torch.device("cpu"):  # a default device is such a mode, too, and changes no operation
        assert_same_text(model, lookahead)
    assert fused_steps.taken() > 0
