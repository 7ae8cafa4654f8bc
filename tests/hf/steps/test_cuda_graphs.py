"""The captured step says what `generate` says: its static buffers, on the CPU, capture switched off."""

import gc
import weakref
from contextlib import ExitStack, nullcontext

import pytest
import torch

from helpers.model_changes import (
    other_adapter,
    scaling_of_one_layer,
    strength_of_an_adapter,
    weight_replaced,
    with_adapters,
)
from helpers.tiny_models import prompt, tiny_model
from helpers.tiny_vision_models import tiny_vision_model
from lookahead import Lookahead, LookaheadConfig
from lookahead.backends.cuda.capture import NoCapture
from lookahead.backends.cuda.graphs import StaticStep, StepMemory
from lookahead.backends.cuda.packed_trees import PackedTrees
from lookahead.hf.compat.layout import attention_layout, fresh_cache
from lookahead.hf.compat.traits import ModelTraits
from lookahead.hf.steps import cuda_graphs
from lookahead.hf.steps.eager import EagerRunner
from lookahead.hf.steps.verification import TREE

GREEDY = {"max_new_tokens": 32, "do_sample": False}
LONG = {**GREEDY, "max_new_tokens": 60}  # drafts of every size are met
SAMPLING = {"max_new_tokens": 32, "do_sample": True, "temperature": 0.8, "repetition_penalty": 1.1}
FAMILIES = ["llama", "qwen2", "mistral", "gemma2", "gemma3", "mixtral"]


class Counted(NoCapture):
    """Counts what is captured."""

    def __init__(self):
        self.captured = 0

    def __call__(self, step):
        self.captured += 1
        return super().__call__(step)


@pytest.fixture
def capture(monkeypatch):
    counted = Counted()
    monkeypatch.setattr(cuda_graphs, "capture_for", lambda *_: counted)
    return counted


@pytest.fixture
def uses(monkeypatch):
    """How many steps were done in static buffers."""
    seen = []
    own = StaticStep.__call__

    def counted(self, *arguments):
        seen.append(self)
        return own(self, *arguments)

    monkeypatch.setattr(StaticStep, "__call__", counted)
    return seen


def unfused(**settings):
    return Lookahead(LookaheadConfig(compiled_cpu=False, **settings))


def assert_same_text(model, lookahead, token_ids, **generation):
    torch.manual_seed(5)
    expected = model.generate(token_ids, **generation)
    torch.manual_seed(5)
    assert lookahead.generate(model, token_ids, **generation).tolist() == expected.tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_text_of_generate(family, capture, uses):
    model, lookahead = tiny_model(family), unfused(decoding_length=12)
    for generation in (GREEDY, SAMPLING):
        for _ in ("cold", "warm"):
            assert_same_text(model, lookahead, prompt(0), **generation)
    assert lookahead.stats.mean_acceptance_length > 1.2
    assert capture.captured > 0
    assert len(uses) == lookahead.stats.forwards  # no step was left to the model's own forward


@pytest.mark.parametrize("ends", [None, [11, 20, 33, 34, 50]], ids=["all to the limit", "rows end"])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_batch_behind_padding(family, ends, capture, uses):
    model, lookahead = tiny_model(family), unfused(decoding_length=32)
    token_ids = torch.cat([prompt(seed) for seed in range(4)])
    mask = (torch.arange(12)[None] >= torch.tensor([[0], [3], [5], [1]])).long()
    for generation in (GREEDY, SAMPLING):
        settings = {**generation, "attention_mask": mask, "eos_token_id": ends, "pad_token_id": 0}
        for _ in ("cold", "warm"):
            assert_same_text(model, lookahead, token_ids * mask, **settings)
    assert lookahead.stats.mean_acceptance_length > 1.2
    assert len({step for step in uses if step.is_repeated}) == capture.captured > 0


def test_an_answer_that_outgrows_its_memory(capture, uses, monkeypatch):
    monkeypatch.setattr("lookahead.hf.steps.step_model._FIRST_CAPACITY_OF_GRAPHS", 4)
    allocated, own = [], StepMemory.allocate
    monkeypatch.setattr(StepMemory, "allocate", lambda *given: allocated.append(given[1]) or own(*given))
    model = tiny_model("llama", max_position_embeddings=1024)
    lookahead = unfused(decoding_length=16)
    assert_same_text(model, lookahead, prompt(0), max_new_tokens=600, do_sample=False)
    assert len(allocated) > 2
    assert capture.captured
    assert len(uses) == lookahead.stats.forwards


def test_what_was_captured_serves_the_next_call(capture):
    model, lookahead = tiny_model("llama"), unfused(decoding_length=8)
    for seed in (0, 1, 2) * 3:
        lookahead.generate(model, prompt(0, 10 + seed), **LONG)
    before = capture.captured
    for seed in range(3):
        assert_same_text(model, lookahead, prompt(0, 10 + seed), **LONG)
    assert capture.captured == before


def test_weights_that_moved_are_captured_anew(capture):
    model, lookahead = tiny_model("llama"), unfused(decoding_length=8)
    for _ in range(2):
        lookahead.generate(model, prompt(0), **GREEDY)
    before = capture.captured
    with torch.no_grad():
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.roll(1, 0))
    for _ in range(2):
        assert_same_text(model, lookahead, prompt(0), **GREEDY)
    assert capture.captured > before


def test_a_model_that_was_captured_is_not_kept_alive(capture):
    model, lookahead = tiny_model("llama"), unfused(decoding_length=8)
    for _ in range(2):
        lookahead.generate(model, prompt(0), **GREEDY)
    assert capture.captured
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


def test_where_capturing_fails_the_models_own_forward_serves(monkeypatch):
    class Fails(NoCapture):
        def __call__(self, _step):
            message = "operation not permitted when stream is capturing"
            raise RuntimeError(message)

    monkeypatch.setattr(cuda_graphs, "capture_for", lambda *_: Fails())
    model, lookahead = tiny_model("llama"), unfused(decoding_length=8)
    with pytest.warns(UserWarning, match=r"not captured.*RuntimeError: operation not permitted"):
        assert_same_text(model, lookahead, prompt(0), **GREEDY)
    for _ in range(2):  # without another word
        assert_same_text(model, lookahead, prompt(0), **GREEDY)
    assert lookahead.stats.mean_acceptance_length > 1.2


@pytest.mark.usefixtures("capture")
def test_a_step_that_disagrees_with_the_models_own_forward_is_not_used(monkeypatch):
    own = PackedTrees.mask
    monkeypatch.setattr(PackedTrees, "mask", lambda *given, **more: own(*given, **more) * 0)
    model, lookahead = tiny_model("llama"), unfused(decoding_length=8)
    with pytest.warns(UserWarning, match="not captured.*logits differ"):
        assert_same_text(model, lookahead, prompt(0), **GREEDY)


def test_a_model_that_asks_for_the_caches_length_is_left_as_it_is(capture):
    model, lookahead = tiny_model("llama"), unfused(decoding_length=8)

    class CountsSlots(type(model.model)):
        def forward(self, *arguments, past_key_values=None, **given):
            assert past_key_values.get_seq_length() >= 0
            return super().forward(*arguments, past_key_values=past_key_values, **given)

    model.model.__class__ = CountsSlots
    with pytest.warns(UserWarning, match="not captured.*reads the cache's length"):
        assert_same_text(model, lookahead, prompt(0), **GREEDY)
    assert not capture.captured


CHANGED = {
    "an adapter": (with_adapters, other_adapter),
    "an adapter's strength": (with_adapters, strength_of_an_adapter),
    "a scaling": (lambda model: model, scaling_of_one_layer),
    "a weight": (lambda model: model, weight_replaced),
}


@pytest.mark.parametrize("what", CHANGED)
def test_a_changed_model_is_captured_anew(what, capture, uses):
    prepare, change = CHANGED[what]
    model, lookahead = prepare(tiny_model("llama")), unfused(decoding_length=8)
    for _ in range(2):
        assert_same_text(model, lookahead, prompt(0), **GREEDY)
    old, captured = {id(step) for step in uses}, capture.captured
    uses.clear()
    with ExitStack() as undo:
        change(model, undo)
        assert_same_text(model, lookahead, prompt(0), **GREEDY)
        assert_same_text(model, lookahead, prompt(0), **GREEDY)
    assert capture.captured > captured
    assert not old & {id(step) for step in uses}


@pytest.mark.parametrize("what", CHANGED)
def test_a_model_that_changes_during_a_call_replays_nothing(what, capture, uses):
    prepare, change = CHANGED[what]
    model, lookahead = prepare(tiny_model("llama")), unfused(decoding_length=8)
    for _ in range(2):
        assert_same_text(model, lookahead, prompt(0), **GREEDY)
    assert capture.captured

    def text(generate):
        with ExitStack() as undo:

            def criterion(token_ids, _scores, **_):
                if token_ids.shape[1] == 20:
                    change(model, undo)
                    uses.clear()
                return torch.zeros(len(token_ids), dtype=torch.bool)

            return generate(stopping_criteria=[criterion], **GREEDY).tolist()

    expected = text(lambda **given: model.generate(prompt(0), **given))
    assert text(lambda **given: lookahead.generate(model, prompt(0), **given)) == expected
    assert not uses


@pytest.mark.parametrize(
    "disturbed", ["hook", "global hook", "longrope", "bloom", "mllama", "reproducible", "off"]
)
def test_others_are_left_as_they_are_without_a_word(disturbed, capture, uses):
    families = {"longrope": "phi3-longrope", "bloom": "bloom"}
    if disturbed == "mllama":  # layers that attend to images keep nothing of text
        model = tiny_vision_model(disturbed)
    else:
        model = tiny_model(families.get(disturbed, "llama"))
    settings = {"cuda_graphs": disturbed != "off", "reproducible": disturbed == "reproducible"}
    lookahead = unfused(decoding_length=8, **settings)
    if disturbed == "hook":
        model.model.layers[0].register_forward_hook(lambda *_: None)
    seen: list[torch.nn.Module] = []
    handle = nullcontext()
    if disturbed == "global hook":
        handle = torch.nn.modules.module.register_module_forward_hook(lambda part, *_: seen.append(part))
    with handle:
        assert_same_text(model, lookahead, prompt(0) % 50, **GREEDY)
    calls = sum(part is model for part in seen)  # those of `generate`, and one for each of our steps
    assert disturbed != "global hook" or calls > GREEDY["max_new_tokens"] + lookahead.stats.forwards
    assert not uses
    assert not capture.captured


@pytest.mark.usefixtures("capture")
def test_calls_at_the_same_time_have_memory_of_their_own():
    model, models = tiny_model("llama"), cuda_graphs.CapturedModels()
    eager = EagerRunner(model, ModelTraits.of(model), attention_layout(model, fresh_cache(model)), TREE)
    first, second = (models.runner_for_call(eager) for _ in range(2))
    assert first._memory is not second._memory
    first.close()
    second.close()
    assert models.runner_for_call(eager)._memory is second._memory
