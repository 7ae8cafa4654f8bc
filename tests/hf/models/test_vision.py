"""Models with image inputs, `token_type_ids` and unknown inputs: the text of `generate`."""

import warnings
from itertools import product

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, LlavaForConditionalGeneration

from helpers.samples import sampled, thinned
from helpers.tiny_models import prompt, tiny_model
from helpers.tiny_vision_models import BEYOND, VISION_MODELS, image_inputs, tiny_vision_model
from lookahead import Lookahead, LookaheadConfig
from lookahead.hf.compat.call import GenerateCall
from lookahead.hf.steps.verification import VerificationMode
from lookahead.hf.support.probe import probe

GREEDY = {"max_new_tokens": 28, "do_sample": False}
SAMPLING = {"max_new_tokens": 28, "do_sample": True, "temperature": 0.8, "top_p": 0.95}
pytestmark = pytest.mark.filterwarnings("ignore:`hidden_state` is deprecated")
"""Transformers 5.16 raises this warning for its own Mllama."""
WAYS = pytest.mark.parametrize("generation", [GREEDY, SAMPLING], ids=["greedy", "sampling"])
PLAIN = {"exaone4_5": "positions that it computes itself", "mllama": "pixel_values"}
"""By family, why its steps are plain. All other families verify trees."""
TREES = sorted(VISION_MODELS.keys() - PLAIN)


def installed(family):
    if not hasattr(transformers, VISION_MODELS[family].name):
        pytest.skip(f"this transformers has no {family}")
    return tiny_vision_model(family)


def assert_same_text(model, lookahead, **generation):
    torch.manual_seed(5)
    expected = model.generate(**generation)
    random_after = torch.rand(1)
    torch.manual_seed(5)
    actual = lookahead.generate(model, **generation)
    assert actual.tolist() == expected.tolist()
    assert torch.equal(torch.rand(1), random_after)
    return expected


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("family", "rows", "generation"),
    sampled(
        product(TREES, [1, 2, 3], [GREEDY, SAMPLING]),
        [
            (family, *way)
            for place, family in enumerate(TREES)
            for way in ((1, GREEDY), (2 + place % 2, SAMPLING))
        ],
    ),
)
def test_the_text_of_generate_behind_images(family, rows, generation):
    """The sample has each family with one row and with a batch; `make verify` has each batch in both ways."""
    model = installed(family)
    lookahead = Lookahead(LookaheadConfig(decoding_length=8 * rows))
    for _ in ("cold", "warm"):
        assert_same_text(model, lookahead, **image_inputs(family, rows), **generation)
    assert lookahead.last_stats.mean_acceptance_length > 1.2
    assert lookahead.last_stats.draft_tokens > 0


@pytest.mark.matrix
@pytest.mark.parametrize("family", thinned(TREES, 3))
def test_the_text_of_generate_without_images(family):
    model = installed(family)
    lookahead = Lookahead(LookaheadConfig(decoding_length=16))
    for _ in ("cold", "warm"):
        for generation in (GREEDY, SAMPLING):
            # Not prompt 3: there PaliGemma draws between two tokens whose odds differ by rounding alone.
            assert_same_text(model, lookahead, input_ids=prompt(4) % 50, **generation)
    assert lookahead.last_stats.mean_acceptance_length > 1.2


@pytest.mark.filterwarnings("ignore:.*plain steps, without drafts")
@pytest.mark.matrix
@pytest.mark.parametrize("family", thinned(VISION_MODELS, 3, 1))
def test_memory_of_one_image_does_not_change_the_text_of_another(family):
    model = installed(family)
    lookahead = Lookahead(LookaheadConfig(decoding_length=16))
    texts = [
        assert_same_text(model, lookahead, **image_inputs(family, image=image), **GREEDY) for image in (1, 2)
    ]
    assert texts[0].tolist() != texts[1].tolist()  # the image is seen


@pytest.mark.parametrize("family", ["qwen2_vl", "paligemma", "gemma3"])
def test_rows_end_at_different_steps(family):
    model = installed(family)
    lookahead = Lookahead(LookaheadConfig(decoding_length=32))
    inputs = image_inputs(family, 4)
    whole = model.generate(**inputs, **GREEDY)[:, -28:]
    ends = [int(whole[0, 5]), int(whole[1, 12]), int(whole[2, 20])]
    for _ in ("cold", "warm"):
        for generation in (GREEDY, SAMPLING):
            assert_same_text(model, lookahead, **inputs, **generation, eos_token_id=ends)
    assert lookahead.last_stats.mean_acceptance_length > 1.2


@pytest.mark.parametrize("family", ["qwen2_vl", "llava"])
def test_several_sequences_of_a_prompt_with_an_image(family):
    model = installed(family)
    lookahead = Lookahead(LookaheadConfig(decoding_length=32))
    text = assert_same_text(model, lookahead, **image_inputs(family), **SAMPLING, num_return_sequences=3)
    assert len(text) == 3


def test_an_attached_model_serves_images():
    model = installed("qwen2_vl")
    inputs = image_inputs("qwen2_vl", 2)
    expected = model.generate(**inputs, **GREEDY)
    lookahead = Lookahead(LookaheadConfig(decoding_length=16))
    with lookahead.attach(model):
        for _ in ("cold", "warm"):
            assert model.generate(**inputs, **GREEDY).tolist() == expected.tolist()
    assert lookahead.last_stats.mean_acceptance_length > 1.2


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "glm4v"])
def test_the_models_image_state_after_a_call_is_that_of_generate(family):
    model = installed(family)
    model.generate(**image_inputs(family), **GREEDY)
    kept = model.model.rope_deltas
    assert probe(model).mode is VerificationMode.TREE
    assert model.model.rope_deltas is kept
    for inputs in (image_inputs(family, 2), {"input_ids": prompt(3) % 50}, image_inputs(family)):
        model.generate(**inputs, **GREEDY)
        expected = model.model.rope_deltas.clone()
        Lookahead(LookaheadConfig(decoding_length=8)).generate(model, **inputs, **GREEDY)
        assert torch.equal(model.model.rope_deltas, expected)


@WAYS
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("family", PLAIN)
def test_inputs_that_trees_cannot_serve_are_decoded_in_plain_steps(family, rows, generation):
    model = installed(family)
    lookahead = Lookahead(LookaheadConfig(decoding_length=16))
    inputs = image_inputs(family, rows)
    with pytest.warns(UserWarning, match=f"plain steps, without drafts: .*{PLAIN[family]}"):
        assert_same_text(model, lookahead, **inputs, **generation)
    assert_same_text(model, lookahead, **inputs, **generation)  # warned once
    assert lookahead.stats.mean_acceptance_length == 1.0


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "glm4v", "paligemma"])
def test_rows_that_end_stay_in_forward_passes_of_one_width(family):
    """A row that has left has a padding tree, which needs token types as the others do."""
    model = installed(family)
    inputs = image_inputs(family, 3)
    answers = model.generate(**inputs, **GREEDY)
    ends = [int(row[inputs["input_ids"].shape[1] + 2 + 3 * n]) for n, row in enumerate(answers[:2])]
    lookahead = Lookahead(LookaheadConfig(decoding_length=16, reproducible=True, compiled_cpu=False))
    settings = {**GREEDY, "eos_token_id": ends, "pad_token_id": 0}
    assert_same_text(model, lookahead, **inputs, **settings)
    assert lookahead.stats.forwards < lookahead.stats.row_steps < 3 * lookahead.stats.forwards


def test_text_alone_is_verified_in_trees_even_if_images_need_plain_steps():
    model = installed("mllama")
    lookahead = Lookahead(LookaheadConfig(decoding_length=16))
    for _ in ("cold", "warm"):
        assert_same_text(model, lookahead, input_ids=prompt(3) % 50, **GREEDY)
    assert lookahead.stats.mean_acceptance_length > 1.2


class OfARepository(LlavaForConditionalGeneration):
    """Remote code: it is unknown what it does with an image in a later step."""


def test_remote_code_gets_plain_steps_after_images():
    model = tiny_vision_model("llava")
    model.__class__ = OfARepository
    lookahead = Lookahead(LookaheadConfig(decoding_length=16))
    with pytest.warns(UserWarning, match="it is not known how its steps use"):
        assert_same_text(model, lookahead, **image_inputs("llava"), **GREEDY)
    assert lookahead.stats.mean_acceptance_length == 1.0


@WAYS
@pytest.mark.parametrize("rows", [1, 3])
def test_token_types_continue_as_in_generate(rows, generation):
    model = tiny_model("gpt2")
    token_ids = torch.cat([prompt(row) for row in range(rows)])
    types = torch.arange(rows)[:, None] + 5 * (torch.arange(token_ids.shape[1])[None] >= 4)
    lookahead = Lookahead(LookaheadConfig(decoding_length=8 * rows))
    inputs = {"input_ids": token_ids, "token_type_ids": types, "pad_token_id": 0, "eos_token_id": [9, 30]}
    for _ in ("cold", "warm"):
        text = assert_same_text(model, lookahead, **inputs, **generation)
    assert text.tolist() != model.generate(**{**inputs, "token_type_ids": None}, **generation).tolist()
    assert lookahead.last_stats.mean_acceptance_length > 1.2


@WAYS
@pytest.mark.parametrize("rows", [1, 2])
def test_an_unknown_input_gets_plain_steps(rows, generation):
    sizes = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
    config = AutoConfig.for_model("gpt2", **sizes, add_cross_attention=True, initializer_range=0.3)
    model = AutoModelForCausalLM.from_config(config).eval()
    states = torch.rand(rows, 5, 32, generator=torch.Generator().manual_seed(1))
    token_ids = torch.cat([prompt(row) for row in range(rows)])
    inputs = {
        "input_ids": token_ids,
        "encoder_hidden_states": states,
        "pad_token_id": 0,
        "eos_token_id": None,
    }
    lookahead = Lookahead(LookaheadConfig(decoding_length=16))
    with pytest.warns(UserWarning, match="plain steps, without drafts: .* encoder_hidden_states$"):
        assert_same_text(model, lookahead, **inputs, **generation)
    assert_same_text(model, lookahead, **inputs, **generation)
    assert lookahead.last_stats.mean_acceptance_length == 1.0
    assert_same_text(model, lookahead, **{**inputs, "encoder_hidden_states": None}, **generation)
    assert lookahead.last_stats.mean_acceptance_length > 1


def test_an_unknown_flag_gets_plain_steps():
    model = tiny_model("mixtral")
    lookahead = Lookahead(LookaheadConfig(decoding_length=16))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert_same_text(model, lookahead, input_ids=prompt(1), output_router_logits=True, **GREEDY)
    (warning,) = caught
    assert str(warning.message).endswith("it is not known how its steps use output_router_logits")
    assert lookahead.stats.mean_acceptance_length == 1.0


def test_placeholders_beyond_the_vocabulary_are_not_drafted():
    token_ids = torch.tensor([[0, 5, BEYOND, 6], [7, BEYOND, -200, 8]])
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    model = tiny_model("llama")
    generate_call = GenerateCall(model, token_ids, [], [], None, None, (), (), {"attention_mask": mask})
    assert generate_call.prompts == [[5, 6], [7, 8]]
