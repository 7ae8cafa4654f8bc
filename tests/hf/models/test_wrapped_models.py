"""Models that are quantised, adapted, compiled, offloaded or hooked: the text of `generate`."""

import pytest
import torch
from torch._dynamo import config as dynamo

from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig
from lookahead.errors import VocabularyMismatchError

PROMPT = prompt(0)
GREEDY = {"max_new_tokens": 24, "do_sample": False}
SAMPLING = {"max_new_tokens": 24, "do_sample": True, "temperature": 0.8}


_DEPRECATED_BY_PEFT = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def assert_same_text(model, lookahead=None, token_ids=PROMPT):
    lookahead = lookahead or Lookahead(LookaheadConfig(decoding_length=16))
    for settings in (GREEDY, SAMPLING, GREEDY):
        torch.manual_seed(3)
        expected = model.generate(token_ids, **settings)
        torch.manual_seed(3)
        assert lookahead.generate(model, token_ids, **settings).tolist() == expected.tolist()
    assert lookahead.last_stats.mean_acceptance_length > 1.5
    return lookahead


class PackedLinear(torch.nn.Module):
    """A linear layer with packed eight-bit weights, as in quantised models: it has no `weight`."""

    def __init__(self, plain):
        super().__init__()
        scale = plain.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("packed", (plain.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)

    def forward(self, states):
        return torch.nn.functional.linear(states, self.packed.to(states.dtype) * self.scale)


def test_weights_packed_in_eight_bits():
    model = tiny_model("llama")
    before = model(PROMPT).logits
    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, child in list(part.named_children()):
                if isinstance(child, torch.nn.Linear):
                    setattr(part, name, PackedLinear(child))
    assert not torch.equal(model(PROMPT).logits, before)
    assert_same_text(model)


class ComputedTogether(torch.nn.Linear):
    """Scales activations by the maximum over the whole forward pass, as some quantised layers do."""

    def forward(self, states):
        step = states.abs().max() / 127
        return super().forward((states / step).round() * step)


def test_activations_quantised_over_all_tokens_get_plain_steps():
    model = tiny_model("llama")
    for layer in model.model.layers:  # what else is in a forward changes every token's rounding
        layer.mlp.up_proj.__class__ = ComputedTogether
    lookahead = Lookahead(LookaheadConfig(decoding_length=16))
    with pytest.warns(UserWarning, match="plain steps"):
        lookahead.generate(model, PROMPT, **GREEDY)
    for settings in (GREEDY, SAMPLING):
        torch.manual_seed(3)
        expected = model.generate(PROMPT, **settings)
        torch.manual_seed(3)
        assert lookahead.generate(model, PROMPT, **settings).tolist() == expected.tolist()


@_DEPRECATED_BY_PEFT
def test_an_adapter():
    peft = pytest.importorskip("peft")
    model = tiny_model("llama")
    plain = model.generate(PROMPT, **GREEDY)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(1)
    adapted = peft.get_peft_model(model, config, autocast_adapter_dtype=False).eval()
    lookahead = assert_same_text(adapted)
    assert adapted.generate(PROMPT, **GREEDY).tolist() != plain.tolist()
    with adapted.disable_adapter():
        assert lookahead.generate(adapted, PROMPT, **GREEDY).tolist() == plain.tolist()
    with lookahead.attach(adapted):
        assert adapted.generate(PROMPT, **GREEDY).tolist() != plain.tolist()
    assert lookahead.stats.requests == 5


@pytest.mark.filterwarnings("ignore:Position ids are not supported")
@_DEPRECATED_BY_PEFT
def test_a_prompt_tuning_adapter():
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    torch.manual_seed(1)
    adapted = peft.get_peft_model(tiny_model("llama"), config).eval()
    lookahead = Lookahead(LookaheadConfig(decoding_length=16))
    # Its own tokens stand before every prompt, which only `generate`'s own preparation knows of.
    with pytest.warns(UserWarning, match="plain steps"):
        lookahead.generate(adapted, PROMPT, **GREEDY)
    expected = adapted.generate(PROMPT, **GREEDY)
    assert lookahead.generate(adapted, PROMPT, **GREEDY).tolist() == expected.tolist()


def test_an_adapted_model_shares_the_memory_of_its_vocabulary():
    lookahead = assert_same_text(tiny_model("llama"))
    with pytest.raises(VocabularyMismatchError, match=r"64.*99"):
        lookahead.generate(tiny_model("llama", vocab_size=99), PROMPT, **GREEDY)


@dynamo.patch(recompile_limit=3)
@pytest.mark.parametrize("what", ["forward", "module"])
def test_a_compiled_model(what):
    """Compiled for three shapes, which takes seconds; at others, torch runs the code as it is."""
    model = tiny_model("llama", num_hidden_layers=1)
    if what == "forward":
        calls, expected = [], model.generate(PROMPT, **GREEDY)

        def counted(graph, _inputs):
            return lambda *tensors: calls.append(graph) or graph(*tensors)

        model.forward = torch.compile(model.forward, backend=counted, dynamic=True)
        lookahead = Lookahead(LookaheadConfig(decoding_length=16))
        assert lookahead.generate(model, PROMPT, **GREEDY).tolist() == expected.tolist()
        assert len(calls) > lookahead.stats.forwards  # its steps are compiled, not its prompt alone
        assert_same_text(model, lookahead)
    else:
        compiled = torch.compile(model, backend="eager", dynamic=True)
        lookahead = assert_same_text(compiled)
        expected = compiled.generate(PROMPT, **GREEDY)
        with lookahead.attach(compiled):
            assert compiled.generate(PROMPT, **GREEDY).tolist() == expected.tolist()
            assert lookahead.generate(compiled, PROMPT, **GREEDY).tolist() == expected.tolist()
        assert lookahead.stats.requests == 5
        assert "generate" not in vars(model)
    torch.compiler.reset()


def test_hooks_see_the_models_forwards():
    model = tiny_model("gpt2")
    seen = []
    model.register_forward_pre_hook(lambda _module, _args, kwargs: seen.append(kwargs), with_kwargs=True)
    lookahead = assert_same_text(model)
    assert len(seen) > lookahead.stats.forwards


def test_a_model_spread_over_devices_with_offloading(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model = tiny_model("llama")
    expected = model.generate(PROMPT, **GREEDY)
    # On a machine without accelerators: some layers stay, others are fetched from memory or disk.
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    places |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "disk"}
    spread = accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=str(tmp_path))
    assert spread.model.layers[1].mlp.up_proj.weight.device.type == "meta"
    lookahead = assert_same_text(spread)
    assert lookahead.generate(spread, PROMPT, **GREEDY).tolist() == expected.tolist()
