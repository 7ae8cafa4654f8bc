"""Measuring a model between its prompt and its answer: the answer is the same, and the cache as it was."""

import pytest
import torch
from transformers.cache_utils import DynamicCache

from helpers.memories import prepared
from helpers.tiny_models import prompt, tiny_model
from lookahead import LookaheadConfig
from lookahead.decoding import loop
from lookahead.hf.compat.config import text_config
from lookahead.hf.compat.layout import attention_layout
from lookahead.hf.compat.traits import ModelTraits
from lookahead.hf.steps.call_steps import CallStepModel
from lookahead.hf.steps.verification import TREE
from lookahead.hf.support.step_times import StepTimesCache, StepTimesKey, step_times_for

FAMILIES = ["llama", "mistral", "gemma3", "gpt2", "opt"]
MAX_NODES = 16
NOTHING_KEPT = StepTimesCache(None)


def prefilled(model, tokens):
    layout = attention_layout(model, DynamicCache(config=text_config(model)))
    model_kwargs = {
        "attention_mask": None,
        "position_ids": torch.arange(tokens.shape[1])[None],
        "use_cache": True,
    }
    step_model = CallStepModel(
        model,
        ModelTraits.of(model),
        layout,
        tokens,
        model.generation_config,
        model_kwargs,
        verification=TREE,
        max_new_tokens=40,
        max_nodes=MAX_NODES,
    )
    with torch.no_grad():
        step_model.prefill()
    return step_model


def measured(model, step_model, tokens, *, cache=NOTHING_KEPT):
    return step_times_for(model, step_model, tokens.tolist(), max_nodes=MAX_NODES, cache=cache)


def forwards_of(model):
    """The number of tokens of each forward from now on."""
    lengths = []
    embeddings = model.get_input_embeddings()
    embeddings.register_forward_hook(lambda _module, inputs, _output: lengths.append(inputs[0].shape[-1]))
    return lengths


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cache_is_left_as_it_was(family):
    model, tokens = tiny_model(family), prompt(0)
    step_model = prefilled(model, tokens)
    arena = step_model.cache.arena
    before = [[part.clone() for part in arena.view(layer)] for layer in range(arena.layer_count)]
    capacity, max_draft_depth = arena.capacity, step_model.max_draft_depth(0)
    torch.manual_seed(3)
    times = measured(model, step_model, tokens)
    assert times.sizes == (1, 2, 4, 8, 16)
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(3)))
    assert (arena.capacity, step_model.max_draft_depth(0)) == (capacity, max_draft_depth)
    for layer, parts in enumerate(before):
        assert arena.length(layer) == tokens.shape[1]
        assert all(torch.equal(part, held) for part, held in zip(parts, arena.view(layer), strict=True))


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_text_is_the_same_with_and_without_measuring(family, do_sample, monkeypatch):
    model, tokens = tiny_model(family), prompt(1)
    settings = {"max_new_tokens": 40, "do_sample": do_sample}
    lookahead = prepared(LookaheadConfig(decoding_length=16), "warm", model, [tokens], **settings)
    measurements = []

    class MeasuredFirst:
        """A step model that is measured as soon as it has read its prompt."""

        def __init__(self, step_model):
            self._step_model = step_model

        def prefill(self):
            logits = self._step_model.prefill().clone()
            measurements.append(measured(model, self._step_model, tokens))
            return logits

        def __getattr__(self, name):
            return getattr(self._step_model, name)

    torch.manual_seed(5)
    expected = model.generate(tokens, **settings).tolist()
    decode = loop.decode
    monkeypatch.setattr(
        loop, "decode", lambda step_model, *others: decode(MeasuredFirst(step_model), *others)
    )
    torch.manual_seed(5)
    assert lookahead.generate(model, tokens, **settings).tolist() == expected
    assert measurements[0].sizes[-1] == MAX_NODES


def test_nothing_is_measured_beyond_the_models_positions(tmp_path):
    model = tiny_model("opt")
    context = text_config(model).max_position_embeddings
    cache = StepTimesCache(tmp_path)
    for length, largest in ((context - 5, 5), (context - 2, 2)):
        tokens = prompt(2, length)
        step_model = prefilled(model, tokens)
        lengths = forwards_of(model)
        assert measured(model, step_model, tokens, cache=cache).sizes[-1] == max(lengths) == largest
    assert not list(tmp_path.iterdir())  # a part of the curve would stand in for the whole
    for length in (context - 1, context):
        tokens = prompt(2, length)
        step_model = prefilled(model, tokens)
        lengths = forwards_of(model)
        assert measured(model, step_model, tokens, cache=cache) is None
        assert lengths == []


def test_what_was_measured_once_is_read(tmp_path):
    model, tokens = tiny_model("llama"), prompt(0)
    cache = StepTimesCache(tmp_path)
    step_model = prefilled(model, tokens)
    times = measured(model, step_model, tokens, cache=cache)
    assert cache.load(StepTimesKey.of(model, tokens.shape[1])) == times
    lengths = forwards_of(model)
    assert measured(model, step_model, tokens, cache=cache) == times
    assert lengths == []
    longer = step_times_for(model, step_model, tokens.tolist(), max_nodes=32, cache=cache)
    assert max(lengths) == longer.sizes[-1] == 32  # what is kept did not reach so far
    assert measured(model, step_model, tokens, cache=cache) == longer


def test_a_prompt_of_embeddings_alone_can_be_measured():
    model, tokens = tiny_model("llama"), prompt(0)
    step_model = prefilled(model, tokens)
    times = step_times_for(model, step_model, [[]], max_nodes=4, cache=NOTHING_KEPT)
    assert times.sizes == (1, 2, 4)


def test_a_batch_has_times_of_its_own(tmp_path):
    model, tokens = tiny_model("llama"), torch.cat([prompt(0), prompt(1), prompt(2)])
    cache = StepTimesCache(tmp_path)
    step_model = prefilled(model, tokens)
    rows = []
    model.get_input_embeddings().register_forward_hook(
        lambda _module, inputs, _output: rows.append(inputs[0].shape[0])
    )
    times = measured(model, step_model, tokens, cache=cache)
    assert set(rows) == {3}
    assert times.sizes == (1, 2, 4, 8, 16)
    assert cache.load(StepTimesKey.of(model, tokens.shape[1], rows=4)) == times
    assert cache.load(StepTimesKey.of(model, tokens.shape[1])) is None


def test_measuring_builds_no_graph():
    model, tokens = tiny_model("llama"), prompt(0)
    step_model = prefilled(model, tokens)
    with torch.enable_grad():
        measured(model, step_model, tokens)
    assert not any(part.requires_grad for part in step_model.cache.arena.view(0))
