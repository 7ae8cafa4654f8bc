"""A sampling loop that is not the library's is followed: attached models step aside, explicit calls raise."""

import functools
import importlib.util
from types import MethodType

import pytest
from transformers import GenerationMixin, LlamaForCausalLM, PreTrainedModel

from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig
from lookahead.errors import UnsupportedModelError
from lookahead.hf.compat import config

PROMPT = prompt(0)
GREEDY = {"max_new_tokens": 24, "do_sample": False}
LIBRARY_LOOP = GenerationMixin._sample


def shorter(self, *args, **kwargs):
    return LIBRARY_LOOP(self, *args, **kwargs)[:, :-1]


@functools.wraps(LIBRARY_LOOP)  # which gives it the library's name
def wrapper(self, *args, **kwargs):
    return shorter(self, *args, **kwargs)


class Callable:
    """A replacement that is no function."""

    def __call__(self, *args, **kwargs):
        return shorter(*args, **kwargs)


REPLACEMENTS = {
    "function": shorter,
    "wrapper": wrapper,
    "object": Callable(),
}


@pytest.fixture
def model():
    return tiny_model("llama")


@pytest.fixture
def lookahead():
    return Lookahead(LookaheadConfig(decoding_length=16))


@pytest.mark.parametrize("replacement", REPLACEMENTS)
@pytest.mark.parametrize(
    "owner", [GenerationMixin, PreTrainedModel, LlamaForCausalLM], ids=lambda it: it.__name__
)
def test_a_replaced_loop_is_followed_until_it_is_restored(model, lookahead, monkeypatch, owner, replacement):
    expected = model.generate(PROMPT, **GREEDY).tolist()
    lookahead.attach(model)
    with monkeypatch.context() as patch:
        patch.setattr(owner, "_sample", REPLACEMENTS[replacement], raising=False)
        with pytest.warns(UserWarning, match="steps aside.*a loop of its own") as warned:
            texts = [model.generate(PROMPT, **GREEDY).tolist() for _ in range(2)]
        assert texts == [[expected[0][:-1]]] * 2
        assert len(warned) == 1
        for explicit in (
            lambda: lookahead.generate(model, PROMPT, **GREEDY),
            lambda: type(model).generate(model, PROMPT, custom_generate=lookahead, **GREEDY),
        ):
            with pytest.raises(UnsupportedModelError, match=r"a loop of its own \(.*_sample"):
                explicit()
    assert lookahead.stats.requests == 0
    assert model.generate(PROMPT, **GREEDY).tolist() == expected
    assert lookahead.stats.requests == 1


def test_a_loop_of_the_model_alone_is_followed_as_transformers_does(model, lookahead):
    expected = model.generate(PROMPT, **GREEDY).tolist()
    model._sample = MethodType(shorter, model)
    with_own = model.generate(PROMPT, **GREEDY).tolist()
    lookahead.attach(model)
    with pytest.warns(UserWarning, match="a loop of its own"):
        assert model.generate(PROMPT, **GREEDY).tolist() == with_own
    with pytest.raises(UnsupportedModelError, match="a loop of its own"):
        lookahead.generate(model, PROMPT, **GREEDY)
    model._sample = MethodType(LIBRARY_LOOP, model)  # it is the library's
    assert model.generate(PROMPT, **GREEDY).tolist() == expected
    assert lookahead.stats.requests == 1


def test_a_loop_replaced_before_the_import_is_followed_too(model, monkeypatch):
    monkeypatch.setattr(GenerationMixin, "_sample", shorter)
    spec = importlib.util.spec_from_file_location("imported_later", config.__file__)
    imported_later = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(imported_later)
    assert "shorter" in imported_later.own_sampling_loop(model)
    monkeypatch.undo()
    assert imported_later.own_sampling_loop(model) == ""
