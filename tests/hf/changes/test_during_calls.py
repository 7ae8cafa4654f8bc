"""A model that the caller's code changes during a call is followed from the next token on."""

from contextlib import ExitStack

import pytest
import torch
from transformers import LogitsProcessor, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from helpers import model_changes
from helpers.model_changes import CHANGES
from helpers.same_text import text_or_error
from helpers.samples import thinned
from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig
from lookahead.backends.cpu.team import ThreadTeam
from lookahead.hf.compat.fingerprint.watch import Change, ModelWatch

PROMPT = prompt(0)
NOT_FOLLOWED = {"layers_shared", "layers_swapped", "first_layer_deleted"}
"""Layers that write to each other's places of the cache are an error, not another text."""

pytestmark = pytest.mark.filterwarnings("ignore:.*is decoded in")


class ChangesAt(StoppingCriteria):
    """Changes the model once, after some tokens."""

    def __init__(self, model, change, undo, tokens):
        self.length = PROMPT.shape[1] + tokens
        self.apply = lambda: change(model, undo)

    def __call__(self, token_ids, _scores, **_):
        if token_ids.shape[1] == self.length:
            self.apply()
        return torch.zeros(len(token_ids), dtype=torch.bool)


class ProcessorChangesAt(LogitsProcessor):
    def __init__(self, *given):
        self.criterion = ChangesAt(*given)

    def __call__(self, token_ids, scores):
        self.criterion(token_ids, scores)
        return scores


def text_of(generate, model, change, tokens, *, by_processor=False, **settings):
    torch.manual_seed(5)
    with ExitStack() as undo:
        kind = ProcessorChangesAt if by_processor else ChangesAt
        callback = kind(model, change, undo, tokens)
        settings["logits_processor" if by_processor else "stopping_criteria"] = [callback]
        return text_or_error(lambda: generate(PROMPT, max_new_tokens=24, **settings))


def with_lookahead(lookahead, model):
    return lambda *given, **settings: lookahead.generate(model, *given, **settings)


def warmed(model):
    """Return a Lookahead that knows the answer without the change: its drafts are long."""
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    lookahead.generate(model, PROMPT, max_new_tokens=24, do_sample=False)
    return lookahead


@pytest.mark.matrix
@pytest.mark.parametrize("change", thinned(CHANGES, 3, 1))
def test_the_caller_changes_a_compiled_model(change):
    model, tokens = tiny_model("fused-llama"), 1 + CHANGES.index(change) % 6
    lookahead = warmed(model)
    expected = text_of(model.generate, model, change, tokens, do_sample=False)
    actual = text_of(with_lookahead(lookahead, model), model, change, tokens, do_sample=False)
    if change.__name__ in NOT_FOLLOWED:
        assert isinstance(actual, type)
    else:
        assert actual == expected
    after = lookahead.generate(model, PROMPT, max_new_tokens=24, do_sample=False)
    assert after.tolist() == model.generate(PROMPT, max_new_tokens=24, do_sample=False).tolist()


WITHIN_ANY_CALL = [
    model_changes.class_of_layers_late,
    model_changes.rotary_function,
    model_changes.registered_attention,
    model_changes.numbers_of_a_weight,
    model_changes.scaling_of_one_layer,
    model_changes.weight_replaced,
    model_changes.hook,
]


@pytest.mark.parametrize("change", WITHIN_ANY_CALL)
@pytest.mark.parametrize("family", ["gemma3"])
def test_the_caller_changes_a_model_of_another_family(family, change):
    model = tiny_model(family)
    lookahead = warmed(model)
    expected = text_of(model.generate, model, change, 4, do_sample=False)
    assert text_of(with_lookahead(lookahead, model), model, change, 4, do_sample=False) == expected


@pytest.mark.parametrize("change", WITHIN_ANY_CALL)
def test_a_processor_changes_the_model_while_tokens_are_sampled(change):
    model = tiny_model("fused-llama")
    given = {"by_processor": True, "do_sample": True, "temperature": 0.7}
    lookahead = warmed(model)
    expected = text_of(model.generate, model, change, 6, **given)
    assert text_of(with_lookahead(lookahead, model), model, change, 6, **given) == expected


def test_a_change_is_found_as_often_as_it_is_looked_for():
    model = tiny_model("fused-llama")
    for change in CHANGES:
        watch = ModelWatch(model)
        with ExitStack() as undo:
            change(model, undo)
            found = {watch.change(thoroughly=True) for _ in range(3)}
        assert len(found) == 1
        assert Change.NOTHING not in found


def test_a_list_of_tensors_that_is_replaced_is_a_change_and_no_error():
    model = tiny_model("fused-llama")
    model.model.layers[0].mlp.kept = [torch.zeros(2)]
    watch = ModelWatch(model)
    assert watch.change(thoroughly=True) is Change.NOTHING
    model.model.layers[0].mlp.kept = [torch.ones(2)]
    assert watch.change(thoroughly=True) is Change.DETAILS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_dtype_is_what_it_is_to_generate(dtype):
    """The cache holds the old dtype: `generate` raises where the library does."""

    def converted(model, undo):
        model.to(dtype)
        undo.callback(model.to, torch.float32)

    model = tiny_model("fused-llama")
    lookahead = warmed(model)
    expected = text_of(model.generate, model, converted, 5, do_sample=False)
    assert text_of(with_lookahead(lookahead, model), model, converted, 5, do_sample=False) == expected


def test_a_streamer_changes_the_model():
    model = tiny_model("fused-llama")
    lookahead = warmed(model)

    class Changing(BaseStreamer):
        calls = 0

        def put(self, _value):
            self.calls += 1
            if self.calls == 5:
                model.model.layers[0].self_attn.scaling = 0.01

        def end(self):
            pass

    def text(generate):
        model.model.layers[0].self_attn.scaling = 32**-0.5
        return generate(PROMPT, max_new_tokens=24, do_sample=False, streamer=Changing()).tolist()

    assert text(with_lookahead(lookahead, model)) == text(model.generate)


def test_weights_move_while_compiled_code_reads_them(monkeypatch):
    """Equal numbers at other addresses, as another thread may do; what is freed is overwritten at once."""
    model = tiny_model("fused-llama")
    expected = model.generate(PROMPT, max_new_tokens=24, do_sample=False).tolist()
    lookahead, run, steps = warmed(model), ThreadTeam.run, []

    def moved_and_run(self, *given):
        for parameter in model.parameters():
            parameter.data = parameter.detach().clone()
            steps.append(torch.full(parameter.shape, torch.nan))
        return run(self, *given)

    monkeypatch.setattr(ThreadTeam, "run", moved_and_run)
    text = lookahead.generate(model, PROMPT, max_new_tokens=24, do_sample=False).tolist()
    assert text == expected
    assert steps
