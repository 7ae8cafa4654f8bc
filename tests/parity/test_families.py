"""Greedy and sampling, every draft mode, every state of the memory: the text of `generate`."""

import numpy as np
import pytest
import torch

from lookahead import DraftMemory, DraftMode, Lookahead, LookaheadConfig, TokenTrie
from lookahead.drafting.budget import BudgetPolicy
from lookahead.drafting.pace import Pace
from parity.memories import STATES, prepared
from tiny_models import FAMILIES, PLAIN_ONLY, prompt, tiny_model

GREEDY = {"max_new_tokens": 40, "do_sample": False}
SAMPLING = {
    "max_new_tokens": 40,
    "do_sample": True,
    "temperature": 0.8,
    "top_p": 0.95,
    "repetition_penalty": 1.1,
}
PROMPTS = [prompt(seed) for seed in range(2)]


def assert_same_text(model, lookahead, token_ids, **generation):
    torch.manual_seed(5)
    expected = model.generate(token_ids, **generation)
    torch.manual_seed(5)
    actual = model.generate(token_ids, custom_generate=lookahead, **generation)
    assert actual.tolist() == expected.tolist()
    assert torch.equal(torch.rand(1), _next_random_after(model, token_ids, **generation))


def _next_random_after(model, token_ids, **generation):
    torch.manual_seed(5)
    model.generate(token_ids, **generation)
    return torch.rand(1)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("mode", list(DraftMode))
@pytest.mark.parametrize("family", FAMILIES)
def test_same_text(family, mode, state):
    model = tiny_model(family)
    lookahead = prepared(LookaheadConfig(decoding_length=16, mode=mode), state, model, PROMPTS, **GREEDY)
    for token_ids in PROMPTS:
        assert_same_text(model, lookahead, token_ids, **GREEDY)
        assert_same_text(model, lookahead, token_ids, **SAMPLING)
    if state == "warm":
        assert lookahead.stats.mean_acceptance_length > 1.5  # drafts were accepted, so something was tested


@pytest.mark.parametrize("family", FAMILIES)
def test_same_text_in_float64(family):
    model = tiny_model(family, torch.float64)
    lookahead = prepared(LookaheadConfig(decoding_length=16), "warm", model, PROMPTS, **GREEDY)
    for generation in (GREEDY, SAMPLING):
        assert_same_text(model, lookahead, PROMPTS[0], **generation)


@pytest.mark.parametrize("mode", list(DraftMode))
@pytest.mark.parametrize("family", ["llama", "gemma3-hybrid"])
def test_same_text_with_a_token_trie(family, mode):
    model = tiny_model(family)
    memory = DraftMemory(store=TokenTrie())
    lookahead = Lookahead(LookaheadConfig(decoding_length=16, mode=mode), memory=memory)
    for _ in ("cold", "warm"):
        for token_ids in PROMPTS:
            assert_same_text(model, lookahead, token_ids, **GREEDY)
            assert_same_text(model, lookahead, token_ids, **SAMPLING)
    assert lookahead.stats.mean_acceptance_length > 1.5


@pytest.mark.parametrize("mode", list(DraftMode))
@pytest.mark.parametrize("family", ["llama", "gemma3-hybrid"])
def test_same_text_whatever_sizes_the_budget_chooses(family, mode, monkeypatch):
    model = tiny_model(family)
    random = np.random.default_rng(4)

    def at_random(_policy, _state, probabilities_by_row):
        return tuple(int(random.integers(1, 1 + len(row))) for row in probabilities_by_row)

    monkeypatch.setattr(BudgetPolicy, "sizes", at_random)
    lookahead = Lookahead(LookaheadConfig(mode=mode))
    for _ in ("cold", "warm"):
        for token_ids in PROMPTS:
            assert_same_text(model, lookahead, token_ids, **GREEDY)
            assert_same_text(model, lookahead, token_ids, **SAMPLING)
    assert lookahead.stats.mean_acceptance_length > 1.2
    assert lookahead.stats.measure_s > 0


@pytest.mark.parametrize("family", ["llama", "gemma3-hybrid"])
def test_same_text_with_and_without_recycled_logits(family, monkeypatch):
    model = tiny_model(family)
    for is_on in (True, False):
        monkeypatch.setattr(Pace, "recycles", is_on)
        lookahead = Lookahead(LookaheadConfig(decoding_length=16))
        for token_ids in PROMPTS:
            assert_same_text(model, lookahead, token_ids, **GREEDY)
            assert_same_text(model, lookahead, token_ids, **SAMPLING)
        assert (lookahead.stats.recycle_s > 0) is is_on


@pytest.mark.parametrize("prompt_logits", [3, 500])
def test_same_text_with_the_prompts_logits_recycled(prompt_logits):
    model = tiny_model("llama")
    lookahead = Lookahead(LookaheadConfig(decoding_length=16, prompt_logits=prompt_logits))
    for token_ids in PROMPTS:
        for chunks in ({}, {"prefill_chunk_size": 4}):
            assert_same_text(model, lookahead, token_ids, **GREEDY, **chunks)
            assert_same_text(model, lookahead, token_ids, **SAMPLING, **chunks)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_same_text_with_either_attention(implementation):
    model = tiny_model("llama")
    model.set_attn_implementation(implementation)
    lookahead = prepared(LookaheadConfig(decoding_length=16), "warm", model, PROMPTS, **GREEDY)
    assert_same_text(model, lookahead, PROMPTS[0], **GREEDY)
    assert model.config._attn_implementation == implementation


@pytest.mark.parametrize("family", PLAIN_ONLY)
def test_what_cannot_branch_is_decoded_in_plain_steps_with_one_warning(family):
    model = tiny_model(family)
    lookahead = Lookahead()
    with pytest.warns(UserWarning, match="plain steps, without drafts"):
        actual = lookahead.generate(model, PROMPTS[0], **GREEDY)
    assert actual.tolist() == model.generate(PROMPTS[0], **GREEDY).tolist()
    assert lookahead.stats.mean_acceptance_length == 1.0
    lookahead.generate(model, PROMPTS[0], **GREEDY)  # a second warning would fail the test


@pytest.mark.parametrize("decoding_length", [1, 2, 3, 64])
@pytest.mark.parametrize("branch_length", [1, 5])
def test_any_size_of_draft(decoding_length, branch_length):
    model = tiny_model("llama")
    config = LookaheadConfig(decoding_length=decoding_length, branch_length=branch_length)
    lookahead = prepared(config, "warm", model, PROMPTS, **GREEDY)
    assert_same_text(model, lookahead, PROMPTS[0], **GREEDY)
    assert lookahead.stats.mean_acceptance_length <= min(decoding_length, branch_length + 1)


def test_a_second_run_of_the_same_prompt_is_accepted_almost_whole():
    model = tiny_model("llama")
    lookahead = prepared(LookaheadConfig(decoding_length=16), "warm", model, PROMPTS, **GREEDY)
    lookahead.generate(model, PROMPTS[0], **GREEDY)
    assert lookahead.last_stats.mean_acceptance_length > 4
