"""Models that keep more than keys and values: what `generate` gives, in all that can be asked of it."""

import pytest
import torch

from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead

GREEDY = {"max_new_tokens": 12, "do_sample": False}

pytestmark = pytest.mark.filterwarnings("ignore:.*plain steps, without drafts")


@pytest.mark.parametrize("family", ["jamba", "mamba", "rwkv", "xlstm", "recurrent_gemma"])
def test_what_comes_back_is_what_generate_gives(family):
    model = tiny_model(family)
    asked = {**GREEDY, "return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    expected = model.generate(prompt(0), **asked)
    actual = Lookahead().generate(model, prompt(0), **asked)
    assert torch.equal(actual.sequences, expected.sequences)
    for name in ("scores", "logits"):
        assert torch.equal(torch.stack(getattr(actual, name)), torch.stack(getattr(expected, name)))
    assert type(actual.past_key_values) is type(expected.past_key_values)


@pytest.mark.parametrize("family", ["jamba", "mamba"])
def test_an_answer_goes_on_from_the_cache_that_came_back(family):
    model = tiny_model(family)
    first = Lookahead().generate(model, prompt(0), **GREEDY, return_dict_in_generate=True)
    name = "cache_params" if family == "mamba" else "past_key_values"
    going_on = model.generate(first.sequences, **{name: first.past_key_values}, **GREEDY)
    assert torch.equal(going_on, model.generate(first.sequences, **GREEDY))


def test_embeddings_for_a_prompt():
    model = tiny_model("jamba")
    embeddings = model.get_input_embeddings()(prompt(0))
    expected = model.generate(inputs_embeds=embeddings, **GREEDY)
    assert Lookahead().generate(model, inputs_embeds=embeddings, **GREEDY).tolist() == expected.tolist()


def test_drafts_are_as_little_wanted_as_before(monkeypatch):
    lookahead = Lookahead()
    model = tiny_model("mamba")
    monkeypatch.setattr(lookahead.memory.store, "propose", None)  # would fail where anything is drafted
    lookahead.generate(model, prompt(0), **GREEDY)
    assert lookahead.stats.mean_acceptance_length == 1.0
    assert lookahead.stats.tokens == 12
