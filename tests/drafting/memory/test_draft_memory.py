"""DraftMemory: stores, warming, namespaces, vocabularies, merging, threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from helpers import tiny_models
from helpers.drafts import propose
from lookahead import DraftMemory
from lookahead.config import MIN_MEMORY_BYTES
from lookahead.drafting.log.ring import GAP
from lookahead.drafting.log.token_log import TokenLog
from lookahead.drafting.memory.tokenizing import fingerprint
from lookahead.drafting.store import Origin
from lookahead.drafting.trie.token_trie import TokenTrie
from lookahead.errors import ConfigError, UnsupportedMemoryError, VocabularyMismatchError

pytestmark = pytest.mark.usefixtures("matches_alone")


def drafted(memory, context, namespace="default", reads=()):
    """Every token that is drafted after a context, in a request of its own."""
    request = object()
    memory.store.open(request, namespace=namespace, reads=reads)
    memory.store.insert(request, context, Origin.PROMPT)
    try:
        return set(propose(memory.store, request, length=64).token_ids[1:].tolist())
    finally:
        memory.store.forget(request)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_models.tiny_tokenizer()


def other_tokenizer():
    other = tiny_models.tiny_tokenizer()
    other.add_tokens(["more"])
    return other


def test_warmed_token_ids_are_drafted():
    memory = DraftMemory()
    assert memory.warm([[1, 2, 3], np.array([7, 8, 9])]) == 6
    assert drafted(memory, [1, 2]) == {3}
    assert memory.namespaces == {"default": 6}


def test_warmed_texts_are_what_the_tokenizer_makes_of_them(tokenizer):
    memory = DraftMemory()
    assert memory.warm(["Hello", [1, 2], "abc"], tokenizer=tokenizer) == 10
    tokens = memory.store.snapshot()["tokens"].tolist()
    hello, abc = (tokenizer(text)["input_ids"] for text in ("Hello", "abc"))
    assert tokens == [*hello, GAP, 1, 2, GAP, *abc, GAP]
    assert memory.warm("abc", tokenizer=tokenizer) == 3
    assert memory.warm((text for text in ["abc"] * 600), tokenizer=tokenizer) == 1800


def test_special_tokens_are_not_added():
    class Tokenizer:
        def get_vocab(self):
            return {"a": 0}

        def __call__(self, texts, *, add_special_tokens, verbose):
            assert not verbose
            return {"input_ids": [[0] if not add_special_tokens else [1, 0] for _ in texts]}

    memory = DraftMemory()
    assert memory.warm(["a"], tokenizer=Tokenizer()) == 1


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (["a text"], ConfigError, "texts need the model's tokenizer"),
        ([1, 2, 3], ValueError, "one sequence of integers"),
        ([[1, -2]], ValueError, "token ids must be from 0"),
        ([[1, 2**31]], ValueError, "token ids must be from 0"),
        ([[0.5]], ValueError, "one sequence of integers"),
    ],
)
def test_what_cannot_be_remembered_is_refused(given, error, message):
    memory = DraftMemory()
    with pytest.raises(error, match=message):
        memory.warm(given)
    assert memory.namespaces == {}


@pytest.mark.parametrize("namespace", ["", "a\0b", None, 3])
def test_what_cannot_name_a_namespace_is_refused(namespace):
    memory = DraftMemory()
    with pytest.raises(ConfigError, match="is not allowed"):
        memory.warm([[1]], namespace=namespace)
    with pytest.raises(ConfigError, match="is not allowed"):
        memory.store.open("request", namespace=namespace)
    with pytest.raises(ConfigError, match="is not allowed"):
        memory.store.open("request", reads=[namespace])


def test_reads_are_several_names():
    with pytest.raises(ConfigError, match=r"reads='public' is one name"):
        DraftMemory().store.open("request", reads="public")


def test_namespaces_are_read_where_asked_for_and_nowhere_else():
    memory = DraftMemory()
    memory.warm([[1, 2, 30]], namespace="a")
    memory.warm([[1, 2, 40]], namespace="b")
    memory.warm([[1, 2, 50]], namespace="public")
    assert memory.namespaces == {"a": 3, "b": 3, "public": 3}
    assert drafted(memory, [1, 2], "a") == {30}
    assert drafted(memory, [1, 2], "a", ("public",)) == {30, 50}
    assert drafted(memory, [1, 2]) == set()


def test_a_forgotten_namespace_leaves_nothing_behind_not_even_its_name():
    memory = DraftMemory()
    memory.warm([[1, 2, 30]], namespace="a")
    memory.warm([[1, 2, 40]], namespace="b")
    memory.forget_namespace("a")
    memory.forget_namespace("unknown")
    assert memory.namespaces == {"b": 3}
    held = memory.contents().snapshot
    assert held["names"].tolist() == ["b"]
    assert held["tokens"].tolist() == [1, 2, 40, GAP]
    assert drafted(memory, [1, 2], "a") == set()
    memory.warm([[1, 2, 31]], namespace="a")
    assert drafted(memory, [1, 2], "a") == {31}
    assert drafted(memory, [1, 2], "b") == {40}


def test_a_live_request_of_a_forgotten_namespace_goes_on():
    memory = DraftMemory()
    memory.store.open("live", namespace="a")
    memory.store.insert("live", [1, 2, 3], Origin.OUTPUT)
    memory.forget_namespace("a")
    memory.store.forget("live")
    assert memory.namespaces == {"a": 3}


def test_prompts_are_remembered_only_when_asked_for():
    for remember, held in ((False, {}), (True, {"default": 3})):
        memory = DraftMemory(remember_prompts=remember)
        memory.store.insert("request", [1, 2, 3], Origin.PROMPT)
        memory.store.forget("request")
        assert memory.namespaces == held


def test_the_cap_holds_and_the_newest_stay():
    memory = DraftMemory(max_bytes=2**18)
    memory.warm([list(range(k, k + 100)) for k in range(0, 100_000, 100)])
    assert memory.nbytes <= 2**18
    assert memory.contents().snapshot["tokens"][-2] == 99_999


@pytest.mark.parametrize("max_bytes", [0, -1, 2**50, 1e6, True, "1"])
def test_caps_out_of_range_are_refused(max_bytes):
    with pytest.raises(ConfigError, match=r"max_bytes=.* is not allowed; give an integer from"):
        DraftMemory(max_bytes=max_bytes)


def test_the_min_cap_is_enough():
    memory = DraftMemory(max_bytes=MIN_MEMORY_BYTES)
    memory.warm([[1, 2, 3]] * 100)
    assert 0 < memory.namespaces["default"] < memory.nbytes <= MIN_MEMORY_BYTES


def test_a_stores_own_settings_are_given_to_the_store():
    for settings in ({"max_bytes": 2**20}, {"remember_prompts": True}):
        with pytest.raises(ConfigError, match="give them to the store"):
            DraftMemory(store=TokenLog(), **settings)


def test_a_string_selects_the_store_with_the_memorys_cap():
    assert isinstance(DraftMemory(store="log").store, TokenLog)
    assert isinstance(DraftMemory(store="trie").store, TokenTrie)
    assert DraftMemory(store="trie", max_bytes=2**20).store.max_nodes == TokenTrie(max_bytes=2**20).max_nodes
    trie = TokenTrie()
    assert DraftMemory(store=trie).store is trie
    assert DraftMemory(store="trie", max_bytes=MIN_MEMORY_BYTES).nbytes <= MIN_MEMORY_BYTES


@pytest.mark.parametrize("store", ["tree", "", None, 3])
def test_what_is_no_store_is_refused(store):
    with pytest.raises(ConfigError, match=r'store=.* is not allowed; give "log", "trie" or a draft store'):
        DraftMemory(store=store)


def test_a_trie_remembers_no_prompts():
    with pytest.raises(ConfigError, match='remember_prompts=True needs store="log"'):
        DraftMemory(store="trie", remember_prompts=True)
    with pytest.raises(ConfigError, match="max_bytes=0 is not allowed"):
        DraftMemory(store="trie", max_bytes=0)


def test_a_trie_is_warmed_but_has_neither_namespaces_nor_a_file(tmp_path):
    memory = DraftMemory(store="trie")
    assert memory.warm([[1, 2, 3]]) == 3
    memory.store.insert("request", [1, 2], Origin.OUTPUT)
    assert propose(memory.store, "request").token_ids.tolist() == [2, 3]
    for refused in (
        lambda: memory.warm([[1]], namespace="tenant"),
        lambda: memory.save(tmp_path / "memory"),
        lambda: memory.merge(DraftMemory()),
        lambda: DraftMemory().merge(memory),
        lambda: memory.forget_namespace("default"),
        lambda: memory.namespaces,
    ):
        with pytest.raises(UnsupportedMemoryError, match="TokenLog"):
            refused()


def test_one_vocabulary_and_one_tokenizer(tokenizer):
    memory = DraftMemory()
    memory.bind(vocabulary_size=64)
    memory.bind(tokenizer=tokenizer)
    memory.bind(vocabulary_size=64, tokenizer=tiny_models.tiny_tokenizer())
    assert memory.vocabulary_size == 64
    assert memory.tokenizer_fingerprint == fingerprint(tokenizer)
    with pytest.raises(VocabularyMismatchError, match=r"a vocabulary of 64, not of 99"):
        memory.bind(vocabulary_size=99)
    for refused in (
        lambda: memory.bind(tokenizer=other_tokenizer()),
        lambda: memory.warm(["a"], tokenizer=other_tokenizer()),
        lambda: memory.save("nowhere", tokenizer=other_tokenizer()),
    ):
        with pytest.raises(VocabularyMismatchError, match=f"tokenizer {fingerprint(tokenizer)[:12]}"):
            refused()


def test_tokens_beyond_the_vocabulary_are_refused_whenever_it_is_bound():
    memory = DraftMemory()
    memory.bind(vocabulary_size=64)
    with pytest.raises(VocabularyMismatchError, match="token 64 is beyond a vocabulary of 64"):
        memory.warm([[63, 64]])
    for warmed in (DraftMemory(), DraftMemory(store="trie")):
        warmed.warm([[63, 64]])
        with pytest.raises(VocabularyMismatchError, match="token 64 is beyond a vocabulary of 64"):
            warmed.bind(vocabulary_size=64)
        warmed.bind(vocabulary_size=65)


def test_a_fingerprint_is_of_what_ids_stand_for(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    same = type(tokenizer).from_pretrained(tmp_path)
    same.pad_token = "b"  # noqa: S105
    assert fingerprint(same) == fingerprint(tokenizer)
    assert fingerprint(other_tokenizer()) != fingerprint(tokenizer)
    special = tiny_models.tiny_tokenizer()
    special.add_special_tokens({"additional_special_tokens": ["more"]})
    assert fingerprint(special) != fingerprint(other_tokenizer())


def test_merging_keeps_namespaces_apart_and_the_other_as_it_is():
    one, other = DraftMemory(), DraftMemory()
    one.warm([[1, 2, 30]], namespace="a")
    other.warm([[5, 6, 7]], namespace="b")
    other.warm([[1, 2, 40]], namespace="a")
    other.warm([[1, 2, 50]], namespace="gone")
    other.forget_namespace("gone")
    other.store.open("live", namespace="b")
    other.store.insert("live", [5, 6], Origin.OUTPUT)
    other.store.recycle("live", [6], np.array([[60, 61]], np.int32))
    one.merge(other)
    assert one.namespaces == {"a": 6, "b": 3}
    assert other.namespaces == {"b": 3, "a": 3}
    assert drafted(one, [1, 2], "a") == {30, 40}
    assert drafted(one, [5, 6], "b") == {7, 60, 61}
    assert drafted(one, [1, 2], "b") == set()
    assert list(one.store.tokens_by_namespace()) == ["a", "b"]


def test_merging_with_itself_changes_nothing():
    memory = DraftMemory()
    memory.warm([[1, 2, 3]])
    memory.merge(memory)
    memory.merge(DraftMemory(store=memory.store))
    assert memory.namespaces == {"default": 3}


def test_merging_refuses_another_vocabulary(tokenizer):
    one, other = DraftMemory(), DraftMemory()
    one.bind(vocabulary_size=64)
    other.warm([[64]])
    with pytest.raises(VocabularyMismatchError, match="token 64"):
        one.merge(other)
    other.bind(vocabulary_size=99)
    with pytest.raises(VocabularyMismatchError, match="64, not of 99"):
        one.merge(other)
    third = DraftMemory()
    third.bind(tokenizer=other_tokenizer())
    one.bind(tokenizer=tokenizer)
    with pytest.raises(VocabularyMismatchError, match="tokenizer"):
        one.merge(third)
    assert one.namespaces == {}
    fresh = DraftMemory()
    fresh.merge(other)
    assert fresh.vocabulary_size == 99


def test_threads_learn_and_draft_while_the_memory_is_saved_merged_and_forgotten(tmp_path):
    memory = DraftMemory(max_bytes=2**19)
    memory.bind(vocabulary_size=4000)
    stop = threading.Event()

    def serve(tenant):
        rng = np.random.default_rng(tenant)
        tokens = 1000 * tenant + rng.integers(0, 30, 400)
        done = 0
        while not stop.is_set() or done == 0:
            request = object()
            memory.store.open(request, namespace=str(tenant))
            memory.store.insert(request, tokens[:9], Origin.PROMPT)
            for begin in range(9, 400, 40):
                drafts = propose(memory.store, request, length=16).token_ids
                assert ((drafts >= 1000 * tenant) & (drafts < 1000 * tenant + 30)).all()
                memory.store.insert(request, tokens[begin : begin + 40], Origin.OUTPUT)
                likely = np.unique(tokens[begin : begin + 8])[None].astype(np.int32)
                memory.store.recycle(request, tokens[begin : begin + 1], likely)
            memory.store.forget(request)
            done += 1
        return done

    with ThreadPoolExecutor(4) as pool:
        served = [pool.submit(serve, tenant) for tenant in range(4)]
        try:
            for turn in range(20):
                memory.save(tmp_path / "memory")
                loaded = DraftMemory.load(tmp_path / "memory", vocabulary_size=4000)
                held = loaded.contents().snapshot
                names = held["names"].astype(int)
                text = held["tokens"] != GAP
                assert (held["tokens"][text] // 1000 == names[held["owners"][text] - 1]).all()
                memory.merge(loaded)
                assert memory.nbytes <= 2**19
                if turn % 5 == 4:
                    memory.forget_namespace(str(turn % 4))
        finally:
            stop.set()
        assert all(future.result() > 0 for future in served)
