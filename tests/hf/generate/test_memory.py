"""Memories that are warm, loaded, or shared by tenants: the same text, and no other tenant's tokens."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from helpers.tiny_models import prompt, tiny_model, tiny_tokenizer
from lookahead import DraftMemory, Lookahead, LookaheadConfig
from lookahead.drafting import drafter
from lookahead.drafting.budget.controller import BudgetController
from lookahead.drafting.log.token_log import TokenLog
from lookahead.errors import ConfigError, UnsupportedMemoryError, VocabularyMismatchError

GREEDY = {"max_new_tokens": 40, "do_sample": False}
SAMPLING = {"max_new_tokens": 40, "do_sample": True, "temperature": 0.8, "repetition_penalty": 1.1}
PROMPT = prompt(0)


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.fixture(scope="module")
def answer(model):
    return model.generate(PROMPT, **GREEDY)[0, PROMPT.shape[1] :].tolist()


def assert_same_text(model, generate, **generation):
    torch.manual_seed(5)
    expected = model.generate(PROMPT, **generation).tolist()
    torch.manual_seed(5)
    assert generate(PROMPT, **generation).tolist() == expected


@pytest.mark.parametrize("generation", [GREEDY, SAMPLING], ids=["greedy", "sampling"])
def test_same_text_from_a_warmed_and_a_loaded_memory(model, answer, generation, tmp_path):
    memory = DraftMemory()
    memory.warm([answer, answer[::-1]])
    memory.warm(["HelloHello"], tokenizer=tiny_tokenizer())
    memory.save(tmp_path / "memory")
    for warmed in (memory, DraftMemory.load(tmp_path / "memory", tokenizer=tiny_tokenizer())):
        lookahead = Lookahead(memory=warmed)
        assert_same_text(
            model, lambda *args, la=lookahead, **kw: la.generate(model, *args, **kw), **generation
        )
        assert warmed.vocabulary_size == 64
        assert generation is SAMPLING or lookahead.last_stats.mean_acceptance_length > 4


def test_a_memory_warmed_beyond_the_models_vocabulary_is_refused(model):
    memory = DraftMemory()
    memory.warm([[1, 64]])
    with pytest.raises(VocabularyMismatchError, match="token 64 is beyond a vocabulary of 64"):
        Lookahead(memory=memory).generate(model, PROMPT, **GREEDY)


def lookahead_in(way, lookahead, model, namespace, reads):
    """One of the three ways to name a namespace."""
    if way == "generate":
        return lambda *args, **kw: lookahead.generate(model, *args, namespace=namespace, reads=reads, **kw)
    if way == "custom_generate":
        return lambda *args, **kw: model.generate(
            *args, custom_generate=lookahead, namespace=namespace, reads=reads, **kw
        )
    view = lookahead.for_namespace(namespace, reads=reads)
    if way == "view":
        return lambda *args, **kw: model.generate(*args, custom_generate=view, **kw)
    return lambda *args, **kw: view.generate(model, *args, **kw)


@pytest.mark.parametrize("way", ["generate", "custom_generate", "view", "view.generate"])
def test_a_tenants_answers_are_drafted_for_it_and_its_readers_alone(model, way):
    lengths = {}
    lookahead = Lookahead(LookaheadConfig(decoding_length=16))
    readers = [("a", ()), ("b", ()), ("c", ("b",)), ("a", ()), ("b", ("a",))]
    for turn, (namespace, reads) in enumerate(readers):
        generate = lookahead_in(way, lookahead, model, namespace, reads)
        assert_same_text(model, generate, **GREEDY)
        lengths[turn] = lookahead.last_stats.mean_acceptance_length
    assert min(lengths[2], lengths[3], lengths[4]) > max(lengths[0], lengths[1]) + 1
    assert lookahead.stats.requests == 5
    assert lookahead.memory.namespaces == {"a": 80, "b": 80, "c": 40}


def test_no_token_of_another_tenant_is_ever_drafted(model, monkeypatch):
    monkeypatch.setattr(
        BudgetController, "recycles", False
    )  # what the model itself holds likely is no tenant's text
    lookahead = Lookahead(LookaheadConfig(decoding_length=64))
    secrets = list(range(3, 30))
    lookahead.memory.warm([secrets] * 20, namespace="a")
    drafts = []
    propose = drafter.RequestDrafter.propose

    def watched(self, *args, **kwargs):
        drafts.append(propose(self, *args, **kwargs))
        return drafts[-1]

    monkeypatch.setattr(drafter.RequestDrafter, "propose", watched)
    monkeypatch.setattr(TokenLog, "recycle", lambda *_: None)  # the model's own guesses may be any token
    start = torch.tensor([[40, 41, 3]])
    for namespace, reads in (("b", ()), ("a", ()), ("b", ("a",))):
        drafts.clear()
        text = lookahead.generate(
            model, start, namespace=namespace, reads=reads, max_new_tokens=20, do_sample=False
        )
        seen = set(text[0].tolist())
        foreign = {token for draft in drafts for token in draft.token_ids.tolist()} - seen
        assert bool(foreign & set(secrets)) == (namespace == "a" or "a" in reads)


def test_namespaces_that_cannot_be_are_refused_before_anything_is_generated(model):
    lookahead = Lookahead()
    with pytest.raises(ConfigError, match="reads='public' is one name"):
        lookahead.generate(model, PROMPT, reads="public", **GREEDY)
    with pytest.raises(ConfigError, match="namespace '' is not allowed"):
        lookahead.for_namespace("")
    trie = Lookahead(memory=DraftMemory(store="trie"))
    with pytest.raises(UnsupportedMemoryError, match="'default' only, not 'a'"):
        trie.generate(model, PROMPT, namespace="a", **GREEDY)
    assert lookahead.stats.tokens == trie.stats.tokens == 0


def test_a_store_alone_is_no_memory():
    with pytest.raises(ConfigError, match=r"DraftMemory\(store=…\)"):
        Lookahead(memory=TokenLog())


def test_the_memory_is_as_large_as_the_settings_say():
    assert Lookahead(LookaheadConfig(max_bytes=2**20)).memory.store.max_bytes == 2**20


def test_tenants_in_threads_while_the_memory_is_saved(model, tmp_path):
    memory = DraftMemory()
    expected = model.generate(PROMPT, **GREEDY).tolist()
    served_by = [tiny_model("llama") for _ in range(3)]  # a model decodes one request at a time

    def serve(tenant):
        lookahead = Lookahead(memory=memory)
        return [
            lookahead.generate(served_by[tenant], PROMPT, namespace=str(tenant), **GREEDY).tolist()
            for _ in range(4)
        ]

    with ThreadPoolExecutor(3) as pool:
        served = [pool.submit(serve, tenant) for tenant in range(3)]
        while not all(future.done() for future in served):
            memory.save(tmp_path / "memory")
            DraftMemory.load(tmp_path / "memory")
        assert all(future.result() == [expected] * 4 for future in served)
    assert memory.namespaces == {"0": 160, "1": 160, "2": 160}


def test_another_memory_may_take_its_place_between_calls(model):
    lookahead = Lookahead(LookaheadConfig(decoding_length=16))
    lookahead.generate(model, PROMPT, **GREEDY)
    first, lookahead.memory = lookahead.memory, DraftMemory()
    lookahead.generate(model, PROMPT, **GREEDY)
    cold = lookahead.last_stats.mean_acceptance_length
    assert first.namespaces == lookahead.memory.namespaces == {"default": 40}
    lookahead.memory = first
    lookahead.generate(model, PROMPT, **GREEDY)
    assert lookahead.last_stats.mean_acceptance_length > cold
    assert first.namespaces == {"default": 80}
