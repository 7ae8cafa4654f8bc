"""Whose code a function is, and changes of ours that are always undone."""

from functools import partial, wraps
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers.models.llama import modeling_llama

from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig
from lookahead.hf.compat.changes import TemporaryChanges
from lookahead.hf.compat.fingerprint import known_models
from lookahead.hf.compat.fingerprint.known_code import KNOWN_CODE
from lookahead.hf.compat.fingerprint.library_code import comes_from_libraries, functions_in, known_digest
from lookahead.hf.steps.compiled_cpu import unsupported_reason

MLP = modeling_llama.LlamaMLP.forward


@wraps(MLP)
def wrapping(self, x):
    return MLP(self, x)


FOREIGN = {
    "a function": lambda x: x,
    "a wrapper that says it is another": wrapping,
    "a function in the library's wrapper": torch.no_grad()(lambda x: x),
    "a part of a function": partial(MLP),
    "a callable object": SimpleNamespace(),
    "a method": SimpleNamespace(call=lambda: 1).call,
}
OWN = [MLP, modeling_llama.LlamaModel.forward, nn.Linear.forward, nn.functional.linear, torch.rsqrt]


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_code_is_known_by_where_it_comes_from(kind):
    assert not comes_from_libraries(FOREIGN[kind])


@pytest.mark.parametrize("function", OWN, ids=lambda function: function.__qualname__)
def test_code_of_the_libraries(function):
    assert comes_from_libraries(function)


def test_a_digest_says_what_code_does_and_not_how_it_is_written():
    source = 'class A:\n    def f(self, x: int) -> int:\n        """Say so."""\n        return x + 1  # one\n'
    same = "class A:\n    def f(self, x):\n        return (x +\n            1)\n"
    other = "class A:\n    def f(self, x):\n        return x + 2\n"
    assert functions_in(source) == functions_in(same) != functions_in(other)


def test_code_that_is_not_what_its_file_says_has_no_digest(monkeypatch):
    assert known_digest(MLP) in KNOWN_CODE["MLP.forward"]
    own = MLP.__code__
    monkeypatch.setattr(MLP, "__code__", own.replace(co_consts=(*own.co_consts, "another")))
    assert comes_from_libraries(MLP)
    assert known_digest(MLP) is None


def test_a_release_whose_code_is_not_known_is_left_to_its_own_code(monkeypatch):
    monkeypatch.setattr(known_models, "KNOWN_CODE", {**KNOWN_CODE, "Attention.forward": frozenset()})
    model, lookahead = tiny_model("fused-llama"), Lookahead(LookaheadConfig(decoding_length=8))
    assert "the code of LlamaAttention.forward is not that of transformers" in unsupported_reason(model)
    for _ in ("cold", "warm"):
        text = lookahead.generate(model, prompt(0), max_new_tokens=30, do_sample=False)
        assert text.tolist() == model.generate(prompt(0), max_new_tokens=30, do_sample=False).tolist()
    assert lookahead.stats.accepted_tokens > 0


def test_changes_are_undone_although_an_exit_is_interrupted():
    target, changes = SimpleNamespace(one=1, two=2), TemporaryChanges()
    interrupts = iter([KeyboardInterrupt])

    def interrupted():
        for error in interrupts:
            raise error

    def change():
        with changes, changes:
            changes.set_attribute(target, "one", 10)
            changes.undo_by(interrupted)
            changes.set_item(vars(target), "three", 30)
            assert vars(target) == {"one": 10, "two": 2, "three": 30}

    with pytest.raises(KeyboardInterrupt):
        change()
    assert vars(target) == {"one": 1, "two": 2}
