"""Quirks of the library that `position_bias` makes up for; a test here fails when one is gone."""

import numpy as np
import pytest
import torch

from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig
from lookahead.drafting.tree import DraftTree
from lookahead.hf.compat.changes import TemporaryChanges
from lookahead.hf.compat.position_bias import PositionBias
from lookahead.hf.steps.verification import VerificationMode
from lookahead.hf.support.probe import probe

BY_SLOTS = ["bloom", "mpt", "falcon-alibi", "gpt_neo"]


@pytest.mark.parametrize("family", BY_SLOTS)
def test_without_places_these_are_no_trees(family, monkeypatch):
    model = tiny_model(family)
    assert probe(model).mode is VerificationMode.TREE
    monkeypatch.setattr(PositionBias, "__init__", lambda self, _model: setattr(self, "_modules", []))
    result = probe(model)
    assert result.mode is VerificationMode.CHAIN
    assert result.reason


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "falcon", "opt"])
def test_others_have_nothing_to_be_told(family):
    assert not PositionBias(tiny_model(family))


@pytest.mark.parametrize("family", BY_SLOTS)
def test_an_exception_leaves_the_model_as_it_was(family):
    model = tiny_model(family)
    before = _what_modules_hold(model)
    changes = TemporaryChanges()

    def interrupted():
        with changes:
            PositionBias(model).set_for(DraftTree.root_only(3), 4, None, changes)
            _interrupt_unless(before == _what_modules_hold(model))

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert before == _what_modules_hold(model)


def test_a_wrapped_forward_goes_on_being_called():
    model = tiny_model("falcon-alibi")
    decoder, calls = model.transformer, []
    forward = decoder.forward

    def wrapped(*args, **kwargs):
        calls.append(1)
        return forward(*args, **kwargs)

    decoder.forward = wrapped
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    with pytest.warns(UserWarning, match="drafts of one branch"):
        actual = lookahead.generate(model, prompt(0), max_new_tokens=20, do_sample=False)
    assert calls
    assert vars(decoder)["forward"] is wrapped
    assert actual.tolist() == model.generate(prompt(0), max_new_tokens=20, do_sample=False).tolist()


def test_a_bias_by_places_is_a_chains_bias_in_another_order():
    model = tiny_model("bloom")
    decoder = model.transformer
    tree = DraftTree(*_tree([-1, 0, 1, 0]))
    padding = torch.tensor([[0, 1, 1]])
    chain = decoder.build_alibi_tensor(torch.tensor([[0, 1, 1, 1, 1, 1]]), 4, torch.float32)
    changes = TemporaryChanges()
    with changes:
        PositionBias(model).set_for(tree, 3, padding, changes)
        bias = decoder.build_alibi_tensor(torch.zeros(1, 1, 4, 7), 4, torch.float32)
    assert torch.equal(bias, chain[..., [0, 1, 2, 3, 4, 5, 4]])


def _what_modules_hold(model):
    """Names and identities: tensors do not compare."""
    return [
        {name: id(value) for holder in (vars(module), module._buffers) for name, value in holder.items()}
        for module in model.modules()
    ]


def _interrupt_unless(is_untouched):
    assert not is_untouched
    raise KeyboardInterrupt


def _tree(parents):
    depths = [0]
    for parent in parents[1:]:
        depths.append(depths[parent] + 1)
    size = len(parents)
    return (
        np.arange(size, dtype=np.int32),
        np.array(parents, np.int32),
        np.array(depths, np.int32),
        np.ones(size),
    )
