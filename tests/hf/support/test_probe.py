"""The probe: tree, chain or plain; asked once, warning once, leaving no trace."""

import warnings
from inspect import signature

import pytest
import torch

from helpers.same_text import PLAIN, assert_same_text
from helpers.samples import sampled
from helpers.tiny_models import KINDS, prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig
from lookahead.hf.compat.layout import AttentionLayout
from lookahead.hf.steps.verification import VerificationMode
from lookahead.hf.support import model_profile as knowledge
from lookahead.hf.support.model_profile import ModelProfiles
from lookahead.hf.support.probe import probe
from research.families.families import FAMILIES, is_installed

GREEDY = {"max_new_tokens": 20, "do_sample": False}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gemma3", "bloom", "gpt2"])
def test_trees_are_trusted_in_every_dtype(family, dtype):
    result = probe(tiny_model(family, dtype))
    assert result.mode is VerificationMode.TREE
    assert result.reason == ""
    assert 0 <= result.difference < result.spread


@pytest.mark.matrix
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_families_in_trees(dtype):
    """The sample has a family of each kind; `make verify` takes all."""
    families = [family for family in sampled(FAMILIES, KINDS) if is_installed(family)]
    in_trees = {
        family for family in families if probe(tiny_model(family, dtype)).mode is VerificationMode.TREE
    }
    assert in_trees == set(families) - PLAIN


def test_a_model_that_ignores_its_mask_gets_chains():
    model = tiny_model("llama")
    forward = model.forward

    def without_tree(*args, attention_mask=None, **kwargs):
        mask = (
            None if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 4 else attention_mask
        )
        return forward(*args, attention_mask=mask, **kwargs)

    without_tree.__signature__ = signature(forward)
    model.forward = without_tree
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    with pytest.warns(UserWarning, match="drafts of one branch: tree logits differ from the branches' by"):
        lookahead.generate(model, prompt(0), **GREEDY)
    assert_same_text(model, lookahead, prompt(0), **GREEDY)
    assert lookahead.stats.mean_acceptance_length > 1.2


def test_a_model_that_errs_on_several_tokens_gets_plain_steps():
    model = tiny_model("llama")
    forward = model.forward

    def noisy(*args, **kwargs):
        outputs = forward(*args, **kwargs)
        held = kwargs["past_key_values"].get_seq_length()
        if 1 < outputs.logits.shape[1] < held:
            outputs.logits += torch.rand_like(outputs.logits)
        return outputs

    noisy.__signature__ = signature(forward)
    model.forward = noisy
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    with pytest.warns(UserWarning, match="plain steps, without drafts: a chain's logits differ"):
        lookahead.generate(model, prompt(0), **GREEDY)
    assert_same_text(model, lookahead, prompt(0), **GREEDY)
    assert lookahead.stats.mean_acceptance_length == 1.0


@pytest.mark.parametrize("error", [RuntimeError("no"), ZeroDivisionError(), NotImplementedError("never")])
def test_no_model_makes_it_raise(error):
    model = tiny_model("llama")

    def forward(**_kwargs):
        raise error

    forward.__signature__ = signature(model.forward)
    model.forward = forward
    result = probe(model)
    assert result.mode is VerificationMode.PLAIN
    assert type(error).__name__ in result.reason


def test_random_numbers_and_frequencies_stay_as_they_were():
    model = tiny_model("llama-dynamic-rope")
    model.generate(prompt(0), max_new_tokens=30)  # beyond its length: the frequencies have grown
    rope = model.model.rotary_emb
    before = rope.inv_freq.clone(), rope.max_seq_len_cached, torch.get_rng_state()
    assert probe(model).mode is VerificationMode.TREE
    assert torch.equal(rope.inv_freq, before[0])
    assert rope.max_seq_len_cached == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_it_is_asked_once_and_warns_once_for_a_model(monkeypatch):
    asked = []

    def counted(model, *args, **kwargs):
        asked.append(model)
        return probe(model, *args, **kwargs)

    monkeypatch.setattr(knowledge, "probe", counted)
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    model = tiny_model("jamba")
    with pytest.warns(UserWarning, match="plain steps") as caught:
        lookahead.generate(model, prompt(0), **GREEDY)
    for _ in range(2):
        lookahead.generate(model, prompt(0), **GREEDY)  # a second warning would fail the test
    assert len(caught) == 1
    assert asked == [model]


def test_nobody_is_warned_of_drafts_that_were_not_wanted():
    lookahead = Lookahead(LookaheadConfig(decoding_length=1))
    model = tiny_model("jamba")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same_text(model, lookahead, prompt(0), **GREEDY)


def test_a_model_in_training_is_not_asked(monkeypatch):
    monkeypatch.setattr(knowledge, "probe", lambda *_args, **_kwargs: pytest.fail("asked"))
    model = tiny_model("llama").train()
    verification = ModelProfiles(LookaheadConfig()).verification(model, AttentionLayout(), rows=1)
    assert verification.mode is VerificationMode.PLAIN
