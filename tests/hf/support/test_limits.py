"""What the probe cannot see: rotary frequencies by length, chunks, scales by slot, unknown settings."""

import pytest
import torch

from helpers.same_text import assert_same_text
from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig
from lookahead.errors import PromptTooLongError
from lookahead.hf.compat.limits import DraftLimits, unknown_settings

GREEDY = {"max_new_tokens": 30, "do_sample": False}
SAMPLING = {"max_new_tokens": 30, "do_sample": True, "temperature": 0.8}
SWITCH = 32


class Spy:
    """Notes the positions of every forward."""

    def __init__(self, model):
        self.positions = []
        model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _module, _args, kwargs):
        self.positions.append(kwargs["position_ids"].flatten().tolist())

    def crossing(self, length):
        """Of the forwards behind the prompt, those on both sides of a length."""
        return [each for each in self.positions if 0 < min(each) < length <= max(each)]


def warmed(model, token_ids, decoding_length=8, **generation):
    lookahead = Lookahead(LookaheadConfig(decoding_length=decoding_length))
    lookahead.generate(model, token_ids, **generation)
    lookahead.reset_stats()
    return lookahead


@pytest.mark.parametrize("family", ["phi3-longrope", "llama-longrope"])
@pytest.mark.parametrize("length", [6, 30, 31, 32, 33, 40])
def test_longrope_on_either_side_of_its_switch(family, length):
    model = tiny_model(family)
    lookahead = warmed(model, prompt(0, length), **GREEDY)
    for generation in (GREEDY, SAMPLING):
        assert_same_text(model, lookahead, prompt(0, length), **generation)
    if family == "llama-longrope":  # Phi-3's cache is started anew at every step from there on in 5.16
        assert lookahead.stats.mean_acceptance_length > 1.2


@pytest.mark.parametrize("family", ["phi3-longrope", "llama-longrope"])
def test_longrope_behind_padding(family):
    model = tiny_model(family)
    token_ids = torch.nn.functional.pad(prompt(0), (5, 0))
    generation = {**GREEDY, "attention_mask": (torch.arange(token_ids.shape[1])[None] >= 5).long()}
    assert_same_text(model, warmed(model, token_ids, **generation), token_ids, **generation)


@pytest.mark.filterwarnings("ignore:.*plain steps")
def test_the_longest_row_of_a_batch_sets_all_rows_frequencies_where_these_grow():
    model = tiny_model("llama-dynamic-rope")
    token_ids = torch.cat([prompt(seed) for seed in range(3)])
    mask = (torch.arange(12)[None] >= torch.tensor([[0], [6], [10]])).long()
    settings = {"max_new_tokens": 30, "do_sample": False, "attention_mask": mask}
    end = model.generate(token_ids, **settings)[0, 12 + 14].item()  # the longest row's first, and it goes on
    settings |= {"eos_token_id": end, "return_dict_in_generate": True, "output_logits": True}
    expected = model.generate(token_ids, **settings)
    lookahead = Lookahead(LookaheadConfig(decoding_length=48))
    for _ in ("cold", "warm"):
        actual = lookahead.generate(model, token_ids, **settings)
        assert actual.sequences.tolist() == expected.sequences.tolist()
        torch.testing.assert_close(actual.logits, expected.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama-longrope", "phi3-longrope", "llama-dynamic-rope"])
def test_a_batch_is_verified_in_trees_where_it_ends_before_frequencies_change(family):
    model = tiny_model(family)
    token_ids = torch.cat([prompt(seed) for seed in range(3)])
    lookahead = Lookahead(LookaheadConfig(decoding_length=48))
    within = {"max_new_tokens": SWITCH - 12, "do_sample": False}
    for _ in ("cold", "warm"):
        expected = model.generate(token_ids, **within)
        assert lookahead.generate(model, token_ids, **within).tolist() == expected.tolist()
    assert lookahead.last_stats.mean_acceptance_length > 1.5
    beyond = {**within, "max_new_tokens": SWITCH - 11}
    expected = model.generate(token_ids, **beyond)
    with pytest.warns(UserWarning, match=r"plain steps.*longest row"):
        assert lookahead.generate(model, token_ids, **beyond).tolist() == expected.tolist()
    assert lookahead.last_stats.draft_tokens == 0


@pytest.mark.parametrize("family", ["llama-longrope", "llama-dynamic-rope"])
def test_no_draft_crosses_the_length_at_which_frequencies_change(family):
    model = tiny_model(family)
    lookahead = warmed(model, prompt(0), **GREEDY)
    spy = Spy(model)
    lookahead.generate(model, prompt(0), **GREEDY)
    drafts = [each for each in spy.positions[1:] if len(each) > 1]
    assert drafts
    assert not spy.crossing(SWITCH)
    assert any(min(each) >= SWITCH for each in drafts) is (family == "llama-longrope")


@pytest.mark.parametrize("length", [12, 32, 40])
def test_dynamic_rope_before_and_beyond_its_length(length):
    model = tiny_model("llama-dynamic-rope")
    lookahead = warmed(model, prompt(0, length), **GREEDY)
    for generation in (GREEDY, SAMPLING, GREEDY):  # each begins with the frequencies that the last one left
        assert_same_text(model, lookahead, prompt(0, length), **generation)


def test_chunks_and_scales_by_slot():
    model = tiny_model("llama4_text")
    assert model.config.attn_temperature_tuning
    lookahead = warmed(model, prompt(0), **GREEDY)
    spy = Spy(model)
    for generation in (GREEDY, SAMPLING):
        assert_same_text(model, lookahead, prompt(0), **generation)
    assert lookahead.stats.mean_acceptance_length > 1.2
    chunk = model.config.attention_chunk_size
    assert any(len({position // chunk for position in each}) > 1 for each in spy.positions if len(each) < 9)


def test_settings_that_nobody_knows_leave_chains():
    model = tiny_model("llama")
    model.config.look_back_window = 8
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    with pytest.warns(
        UserWarning, match="drafts of one branch: it is not known how look_back_window=8 affects"
    ):
        lookahead.generate(model, prompt(0), **GREEDY)
    for generation in (GREEDY, SAMPLING):
        assert_same_text(model, lookahead, prompt(0), **generation)
    assert lookahead.stats.mean_acceptance_length > 1.2


def test_chains_end_where_windows_begin():
    model = tiny_model("mistral")
    model.config.look_back_window = 8
    lookahead = Lookahead(LookaheadConfig(decoding_length=4))
    with pytest.warns(UserWarning, match="drafts of one branch"):
        lookahead.generate(model, prompt(0, 2), **GREEDY)
    assert_same_text(model, lookahead, prompt(0, 2), **GREEDY)
    spy = Spy(model)
    lookahead.generate(model, prompt(0, 2), **GREEDY)
    window = model.config.sliding_window
    assert all(len(each) == 1 or max(each) < window for each in spy.positions)
    assert any(len(each) > 1 for each in spy.positions[1:])


@pytest.mark.parametrize("family", ["llama", "gemma3", "llama4_text", "phi3-longrope", "qwen2-windowed"])
def test_the_librarys_own_settings_are_known(family):
    assert unknown_settings(tiny_model(family)) == []


@pytest.mark.parametrize(
    ("limits", "where", "levels"),
    [
        (DraftLimits(), (10, 10, 8), None),
        (DraftLimits(context=20), (10, 10, 8), 9),
        (DraftLimits(context=20), (25, 25, 8), 0),
        (DraftLimits(rope_switch=20), (15, 18, 8), 1),
        (DraftLimits(rope_switch=20), (15, 20, 8), 4),
        (DraftLimits(rope_switch=20), (20, 23, 8), None),
        (DraftLimits(rope_switch=20, context=30), (20, 20, 8), 9),
        (DraftLimits(rope_growth=20), (15, 15, 8), 4),
        (DraftLimits(rope_growth=20), (25, 25, 8), 0),
        (DraftLimits(slot_block=16), (14, 14, 8), 0),
        (DraftLimits(slot_block=16), (15, 15, 8), None),
        (DraftLimits(slot_block=16), (12, 23, 8), None),
        (DraftLimits(slot_block=16), (12, 24, 8), 0),
        (DraftLimits(dense_until=20), (12, 12, 8), None),
        (DraftLimits(dense_until=20), (13, 13, 8), 0),
        (DraftLimits(context=20, counts_slots=True), (10, 12, 8), 9),
        (DraftLimits(context=20, counts_slots=True), (10, 13, 8), 0),
    ],
)
def test_how_deep_a_draft_may_go(limits, where, levels):
    assert limits.max_draft_depth(*where) == levels


@pytest.mark.parametrize(
    ("settings", "limits"),
    [
        ({"rope_parameters": {"type": "dynamic", "factor": 2.0}}, DraftLimits(rope_growth=256)),
        ({"rotary": {"type": "dynamic", "base": 10000}}, DraftLimits(rope_growth=256)),
        ({"use_dynamic_ntk": True}, DraftLimits(rope_growth=256)),
        ({"rope_parameters": {"type": "linear", "factor": 2.0}}, DraftLimits(context=256)),
    ],
)
def test_settings_under_their_older_names(settings, limits):
    model = tiny_model("gpt2")  # of which the library knows no rotary settings
    for name, value in settings.items():
        setattr(model.config, name, value)
    assert DraftLimits.of(model) == limits


def test_a_context_that_was_made_shorter_holds_for_the_next_call():
    model, lookahead = tiny_model("llama"), Lookahead(LookaheadConfig(decoding_length=16))
    lookahead.generate(model, prompt(0), max_new_tokens=4, do_sample=False)
    model.config.max_position_embeddings = prompt(0).shape[1] + 10
    assert_same_text(model, lookahead, prompt(0), max_new_tokens=30, do_sample=False)
    with pytest.raises(PromptTooLongError):
        lookahead.generate(model, prompt(0, 40), max_new_tokens=4, do_sample=False)
