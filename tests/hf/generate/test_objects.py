"""Models, `Lookahead` and its parts are copied, saved, inspected and freed as other objects are."""

import copy
import functools
import gc
import inspect
import io
import multiprocessing
import pickle
import pydoc
import threading
import weakref

import pytest
import torch

from helpers.tiny_models import prompt, tiny_model
from lookahead import DraftMemory, Lookahead, LookaheadConfig
from lookahead.errors import ConfigError

PROMPT = prompt(0)
GREEDY = {"max_new_tokens": 24, "do_sample": False}


@pytest.fixture
def model():
    return tiny_model("llama")


@pytest.fixture
def lookahead():
    return Lookahead(LookaheadConfig(decoding_length=16))


def saved_and_loaded(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    assert b"lookahead" not in file.getvalue()  # loading needs no Lookahead
    file.seek(0)
    return torch.load(file, weights_only=False)


class Chat(torch.nn.Module):
    """A module of a user's, with an attached model in it."""

    def __init__(self, model, lookahead):
        super().__init__()
        self.attachment = lookahead.attach(model)
        self.model = model


WAYS_TO_SAVE = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),  # noqa: S301
    "python": lambda model: pickle.loads(pickle._dumps(model)),  # noqa: S301
    "protocol 2": lambda model: pickle.loads(pickle.dumps(model, 2)),  # noqa: S301
    "torch": saved_and_loaded,
    "in a module": lambda model: saved_and_loaded(torch.nn.ModuleDict({"model": model}))["model"],
}


@pytest.mark.parametrize("way", WAYS_TO_SAVE)
def test_an_attached_model_is_saved_without_the_attachment(model, lookahead, way):
    expected, names = model.generate(PROMPT, **GREEDY), set(vars(model))
    lookahead.attach(model)
    loaded = WAYS_TO_SAVE[way](model)
    assert set(vars(loaded)) == names
    assert loaded.generate(PROMPT, **GREEDY).tolist() == expected.tolist()
    assert lookahead.stats.requests == 0
    assert model.generate(PROMPT, **GREEDY).tolist() == expected.tolist()
    assert lookahead.stats.requests == 1
    lookahead.detach(model)
    assert set(vars(model)) == names


def test_a_generate_that_came_with_the_model_is_saved_and_copied_with_it(model, lookahead):
    model.generate = functools.partial(type(model).generate, model, suppress_tokens=[5])
    expected = model.generate(PROMPT, **GREEDY).tolist()
    with lookahead.attach(model):
        others = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model)]  # noqa: S301
    assert others[0].generate(PROMPT, **GREEDY).tolist() == expected
    with torch.no_grad():
        others[1].lm_head.weight.copy_(others[1].lm_head.weight.roll(1, 0))
    with pytest.warns(UserWarning, match="came with a generate of its own"):
        assert others[1].generate(PROMPT, **GREEDY).tolist() != expected


def test_a_deep_copy_stays_attached_and_a_shallow_one_is_plain(model, lookahead):
    expected = model.generate(PROMPT, **GREEDY).tolist()
    attachment = lookahead.attach(model)
    deep, shallow = copy.deepcopy(model), copy.copy(model)
    for other, requests in ((deep, 1), (shallow, 1), (model, 2)):
        assert other.generate(PROMPT, **GREEDY).tolist() == expected
        assert lookahead.stats.requests == requests
    shallow._modules = dict(model._modules)
    shallow.lm_head = torch.nn.Linear(32, 64, bias=False)
    shallow_text = type(model).generate(shallow, PROMPT, **GREEDY).tolist()
    assert shallow.generate(PROMPT, **GREEDY).tolist() == shallow_text != expected
    attachment.detach()
    assert "generate" in vars(deep)
    lookahead.detach(deep)
    assert set(vars(deep)) == set(vars(model))


def test_a_module_that_keeps_the_attachment_is_copied_and_saved(model, lookahead):
    chat = Chat(model, lookahead)
    other = copy.deepcopy(chat)
    assert other.model.generate.__self__ is other.model
    other.attachment.detach()
    assert "generate" in vars(model)
    assert "generate" not in vars(other.model)
    loaded = pickle.loads(pickle.dumps(chat))  # noqa: S301
    loaded.attachment.detach()
    assert "generate" not in vars(loaded.model)
    assert "generate" in vars(model)


def test_the_generate_of_an_attached_model_looks_like_its_own(model, lookahead):
    own = model.generate
    looks = [own.__name__, own.__qualname__, own.__module__, own.__doc__, inspect.signature(own)]
    with lookahead.attach(model):
        found = model.generate
        assert [
            found.__name__,
            found.__qualname__,
            found.__module__,
            found.__doc__,
            inspect.signature(found),
        ] == looks
        assert found.__wrapped__ is type(model).generate
        assert found.__self__ is model
        assert inspect.isroutine(found)
        assert "generate(inputs" in pydoc.render_doc(found, renderer=pydoc.plaintext)
        assert copy.copy(found) is found
        loaded = pickle.loads(pickle.dumps(found))  # noqa: S301
    assert type(loaded) is type(own)


@pytest.mark.parametrize("family", ["llama", "fused-llama"])
def test_an_attached_model_is_freed_at_once(lookahead, family):
    model = tiny_model(family)
    model.generate(PROMPT, **GREEDY)
    attachment = lookahead.attach(model)
    gc.disable()
    try:
        for _ in range(2):
            model.generate(PROMPT, **GREEDY)
        with pytest.warns(UserWarning, match="use_cache=False"):
            model.generate(PROMPT, use_cache=False, **GREEDY)
        with pytest.raises(ZeroDivisionError):
            model.generate(PROMPT, stopping_criteria=[lambda *_: 1 / 0], **GREEDY)
        generate, alive = model.generate, weakref.ref(model)
        del model
        assert alive() is None
    finally:
        gc.enable()
    attachment.detach()
    with pytest.raises(ConfigError, match="keep a reference to the model"):
        generate(PROMPT)


def test_an_attachment_that_has_ended_does_not_hold_the_model(lookahead):
    model = tiny_model("llama")
    gc.disable()
    try:
        with lookahead.attach(model) as attachment:
            model.generate(PROMPT, **GREEDY)
        alive = weakref.ref(model)
        del model
        assert alive() is None
    finally:
        gc.enable()
    attachment.detach()
    other = weakref.ref(Lookahead())
    assert other() is None


def test_a_copy_learns_into_its_own_memory_and_counts_for_itself(model, lookahead):
    lookahead.generate(model, PROMPT, **GREEDY)
    held = lookahead.memory.namespaces
    shallow, deep = copy.copy(lookahead), copy.deepcopy(lookahead)
    loaded = pickle.loads(pickle.dumps(lookahead))  # noqa: S301
    assert shallow.memory is lookahead.memory
    assert deep.memory.namespaces == loaded.memory.namespaces == held
    shallow.memory = DraftMemory()
    for other in (shallow, deep, loaded):
        assert other.config == lookahead.config
        assert other.stats == lookahead.stats
        for _ in range(2):
            other.generate(model, prompt(3), **GREEDY)
        assert other.stats.requests == 3
        assert other.last_stats.mean_acceptance_length > 2
        assert other.memory.namespaces["default"] >= 48
    assert lookahead.stats.requests == 1
    assert lookahead.memory.namespaces == held
    lookahead.reset_stats()
    assert shallow.stats.requests == 3


def test_views_settings_and_stats_are_copied(model, lookahead):
    view = lookahead.for_namespace("tenant", reads=("public",))
    view.generate(model, PROMPT, **GREEDY)
    assert copy.copy(view).lookahead is lookahead
    for other in (copy.deepcopy(view), pickle.loads(pickle.dumps(view))):  # noqa: S301
        other.generate(model, PROMPT, **GREEDY)
        assert (other.namespace, other.reads) == ("tenant", ("public",))
        assert other.lookahead.memory.namespaces == {"tenant": 48}
    assert lookahead.memory.namespaces == {"tenant": 24}
    for thing in (lookahead.config, lookahead.stats, Lookahead.supports(model)):
        for other in (copy.copy(thing), copy.deepcopy(thing), pickle.loads(pickle.dumps(thing))):  # noqa: S301
            assert other == thing
    output = lookahead.generate(model, PROMPT, return_dict_in_generate=True, **GREEDY)
    assert pickle.loads(pickle.dumps(output)).lookahead_stats == output.lookahead_stats  # noqa: S301


def test_a_lookahead_is_copied_while_another_thread_uses_it(model, lookahead):
    ended, faults = threading.Event(), []

    def use():
        try:
            while not ended.is_set():
                lookahead.generate(model, PROMPT, max_new_tokens=8, do_sample=False)
        except Exception as fault:  # noqa: BLE001  # raised in the test
            faults.append(fault)

    thread = threading.Thread(target=use)
    thread.start()
    try:
        others = [make() for _ in range(20) for make in (lambda: copy.deepcopy(lookahead), lambda: lookahead)]
        loaded = [pickle.loads(pickle.dumps(lookahead)) for _ in range(20)]  # noqa: S301
    finally:
        ended.set()
        thread.join()
    assert faults == []
    for other in (others[-2], loaded[-1]):
        assert other.memory.store._requests == {}
        assert other.stats.tokens == 8 * other.stats.requests


def test_a_started_process_takes_a_lookahead_and_an_attached_model(model, lookahead):
    expected = lookahead.generate(model, PROMPT, **GREEDY).tolist()
    lookahead.attach(model)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        started = pool.apply_async(lookahead.generate, (model, PROMPT), GREEDY)
        assert started.get(timeout=120).tolist() == expected
    assert lookahead.stats.requests == 1
