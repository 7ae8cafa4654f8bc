"""Models that ship their own code: the probe decides for them."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, dynamic_module_utils

from helpers.remote_code import write_remote_model
from helpers.same_text import GREEDY, SAMPLING, assert_same_text
from helpers.tiny_models import prompt
from lookahead import Lookahead, LookaheadConfig
from lookahead.hf.steps.verification import VerificationMode
from lookahead.hf.support.probe import probe


@pytest.fixture
def remote_model(tmp_path, monkeypatch):
    modules = tmp_path / "modules"
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(modules))
    monkeypatch.syspath_prepend(str(modules))

    def made(**settings):
        folder = tmp_path / "model"
        folder.mkdir()
        write_remote_model(folder, **settings)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, trust_remote_code=True).save_pretrained(folder)
        write_remote_model(folder, **settings)  # saving has rewritten the configuration
        model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
        assert model.is_remote_code()
        return model

    return made


def test_one_that_takes_a_tree_mask_is_verified_in_trees(remote_model):
    model = remote_model(sees_tree=True)
    assert probe(model).mode is VerificationMode.TREE
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    for generation in (GREEDY, GREEDY, SAMPLING):
        assert_same_text(model, lookahead, prompt(0), **generation)
    assert lookahead.stats.mean_acceptance_length > 1.2


def test_one_that_ignores_the_tree_gets_chains_with_a_warning(remote_model):
    model = remote_model(sees_tree=False)
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    with pytest.warns(UserWarning, match="drafts of one branch: tree logits differ"):
        lookahead.generate(model, prompt(0), **GREEDY)
    for generation in (GREEDY, SAMPLING):
        assert_same_text(model, lookahead, prompt(0), **generation)
    assert lookahead.stats.mean_acceptance_length > 1.2


def test_one_whose_frequencies_depend_on_the_length_is_not_drafted_for_beyond_it(remote_model):
    model = remote_model(use_dynamic_ntk=True, seq_length=40)
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    short = {**GREEDY, "max_new_tokens": 28}
    for _ in range(2):
        assert_same_text(model, lookahead, prompt(0), **short)
    lengths = []
    model.register_forward_pre_hook(
        lambda _module, _args, kwargs: lengths.append(
            (kwargs["past_key_values"].get_seq_length(), kwargs["input_ids"].shape[1])
        ),
        with_kwargs=True,
    )
    lookahead.generate(model, prompt(0), **short)
    assert any(tokens > 1 for held, tokens in lengths if held)
    assert all(tokens == 1 or held + tokens <= 40 for held, tokens in lengths)
