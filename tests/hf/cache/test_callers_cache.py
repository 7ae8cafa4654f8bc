"""A cache of the caller's own: a prefix in it is used, and it comes back as `generate` would leave it."""

from itertools import product

import pytest
import torch
from transformers import LogitsProcessorList, StaticCache
from transformers.cache_utils import DynamicCache

from helpers.caches import assert_same_cache, chat
from helpers.samples import sampled
from helpers.streamers import Breaking
from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig
from lookahead.errors import UnsupportedGenerationError

FAMILIES = ["llama", "gemma3", "mistral", "gpt2", "llama4_text", "bloom", "gemma3n", "jamba"]
SETTINGS = [{"do_sample": False}, {"do_sample": True, "temperature": 0.8}]


@pytest.mark.matrix
@pytest.mark.filterwarnings("ignore:.*plain steps")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("rows", "settings"),
    sampled(product([1, 3], SETTINGS), [(1, SETTINGS[0]), (3, SETTINGS[1])]),
    ids=lambda value: None if isinstance(value, int) else ("greedy", "sampling")[value["do_sample"]],
)
def test_a_chat_of_several_turns(family, settings, rows):
    """The sample has one row that is greedy and three that are sampled."""
    model = tiny_model(family)
    lookahead = Lookahead(LookaheadConfig(decoding_length=6 * rows))
    mine, theirs = DynamicCache(config=model.config), DynamicCache(config=model.config)
    assert chat(model, lookahead, mine, rows=rows, **settings) == chat(
        model, None, theirs, rows=rows, **settings
    )
    if family != "jamba":
        assert_same_cache(mine, theirs)
        assert lookahead.stats.draft_tokens > 0


def test_a_cache_made_without_the_models_configuration():
    model = tiny_model("llama")
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    mine, theirs = DynamicCache(), DynamicCache()
    expected = chat(model, None, theirs, do_sample=False)
    with lookahead.attach(model):
        assert chat(model, None, mine, do_sample=False) == expected
    assert_same_cache(mine, theirs)
    assert lookahead.stats.mean_acceptance_length > 1.05


def test_one_that_keeps_more_than_the_models_windows_is_left_to_plain_steps():
    model = tiny_model("gemma3")
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    with pytest.warns(UserWarning, match=r"plain steps.*without the model's configuration"):
        lookahead.generate(model, prompt(0), past_key_values=DynamicCache(), max_new_tokens=3)
    assert chat(model, lookahead, DynamicCache(), do_sample=False) == chat(
        model, None, DynamicCache(), do_sample=False
    )
    lookahead.generate(model, prompt(0), max_new_tokens=20)  # the model itself is trusted with trees
    assert lookahead.last_stats.draft_tokens > 0


def test_only_the_new_tokens_may_be_given():
    model = tiny_model("llama")
    answers = []
    for mode in (None, Lookahead(LookaheadConfig(decoding_length=8))):
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            model(prompt(0), past_key_values=cache)
        answer = model.generate(
            prompt(0)[:, :5],
            attention_mask=torch.ones(1, 12 + 5, dtype=torch.long),
            past_key_values=cache,
            custom_generate=mode,
            max_new_tokens=20,
            do_sample=False,
        )
        answers.append((answer.tolist(), cache.get_seq_length()))
    assert answers[0] == answers[1]


def test_a_returned_cache_goes_on():
    model = tiny_model("gemma3")
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    settings = {"max_new_tokens": 20, "do_sample": False, "return_dict_in_generate": True}
    first = lookahead.generate(model, prompt(0), **settings)
    second = lookahead.generate(model, first.sequences, past_key_values=first.past_key_values, **settings)
    assert second.past_key_values is first.past_key_values
    expected = model.generate(first.sequences, **settings)
    assert second.sequences.tolist() == expected.sequences.tolist()
    assert_same_cache(second.past_key_values, expected.past_key_values)


def test_an_exception_leaves_the_cache_as_it_was():
    model = tiny_model("llama")
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(prompt(0), past_key_values=cache)
    before = cache.layers[0].keys.clone()
    text = torch.cat([prompt(0), prompt(1)], dim=1)
    settings = {"past_key_values": cache, "max_new_tokens": 20}
    broken = LogitsProcessorList([Breaking(ValueError("broken"), 3)])
    with pytest.raises(ValueError, match="broken"):
        lookahead.generate(model, text, **settings, logits_processor=broken)
    assert torch.equal(cache.layers[0].keys, before)
    expected = model.generate(text, max_new_tokens=20)
    assert lookahead.generate(model, text, **settings).tolist() == expected.tolist()


@pytest.mark.parametrize("kind", ["static", "offloaded"])
def test_other_kinds_are_refused_by_name(kind):
    model = tiny_model("llama")
    cache = StaticCache(config=model.config, max_cache_len=64) if kind == "static" else None
    cache = cache or DynamicCache(config=model.config, offloading=True)
    with pytest.raises(UnsupportedGenerationError, match=r"past_key_values.*give a DynamicCache"):
        Lookahead().generate(model, prompt(0), past_key_values=cache, max_new_tokens=5)
