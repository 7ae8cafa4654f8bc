"""A memory's copies, shallow, deep and pickled: the same drafts, a memory of its own, no live requests."""

import copy
import pickle
import threading

import numpy as np
import pytest

from helpers.drafts import branches, propose
from lookahead import DraftMemory
from lookahead.config import DraftMode
from lookahead.drafting.store import Origin
from lookahead.drafting.trie.token_trie import TokenTrie
from lookahead.errors import VocabularyMismatchError

pytestmark = pytest.mark.usefixtures("matches_alone")

TEXT = [[5, 6, 7, 8, 9, 10], [5, 6, 7, 3], [20, 21, 22] * 4]


def out_of_band(memory):
    """Pickle as joblib, Ray and Dask do: the loaded arrays are views of memory that cannot be written."""
    buffers = []
    data = pickle.dumps(memory, 5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[bytes(buffer.raw()) for buffer in buffers])  # noqa: S301


WAYS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda memory: pickle.loads(pickle.dumps(memory)),  # noqa: S301
    "python pickle": lambda memory: pickle.loads(pickle._dumps(memory)),  # noqa: S301
    "out of band": out_of_band,
}
STORES = {
    "log": lambda: "log",
    "trie": lambda: "trie",
    "own trie": lambda: TokenTrie(context_length=3, stop_words=[7]),
}


@pytest.fixture(params=STORES)
def memory(request):
    memory = DraftMemory(store=STORES[request.param]())
    memory.bind(vocabulary_size=64)
    memory.warm(TEXT)
    return memory


def drafted(memory, tokens):
    memory.store.insert("request", [60], Origin.PROMPT)
    memory.store.insert("request", tokens, Origin.OUTPUT)
    draft = branches(propose(memory.store, "request", length=8))
    memory.store.forget("request")
    return draft


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_drafts_the_same_and_learns_for_itself(memory, way):
    other = WAYS[way](memory)
    assert other.vocabulary_size == 64
    for tokens in ([5, 6], [4, 5, 6, 7], [21, 22], [50]):
        assert drafted(other, tokens) == drafted(memory, tokens)
    assert drafted(memory, [5, 6])
    other.warm([[30, 31, 32, 33]] * 3)
    assert drafted(other, [30, 31])[0][0] == 32
    assert drafted(memory, [30, 31]) == []
    memory.warm([[40, 41, 42]] * 3)
    assert drafted(memory, [40, 41])[0][0] == 42
    assert drafted(other, [40, 41]) == []
    with pytest.raises(VocabularyMismatchError):
        other.bind(vocabulary_size=65)


@pytest.mark.parametrize("way", WAYS)
def test_live_requests_stay_with_the_original(memory, way):
    memory.store.insert("live", [50, 51, 52, 50, 51], Origin.PROMPT)
    other = WAYS[way](memory)
    with pytest.raises(KeyError):
        other.store.propose("live", decoding_length=4, branch_length=4, mode=DraftMode.SINGLE)
    assert drafted(other, [50]) == []  # the prompt is not in it
    memory.store.insert("live", [52], Origin.OUTPUT)
    memory.store.forget("live")
    if isinstance(memory.store, TokenTrie):
        fresh = DraftMemory(store=copy.copy(memory.store))
        assert other.store.node_count <= memory.store.node_count == fresh.store.node_count


@pytest.mark.parametrize("way", WAYS)
def test_a_log_keeps_namespaces_settings_and_statistics(way):
    memory = DraftMemory(max_bytes=2**20, remember_prompts=True)
    memory.warm(TEXT, namespace="a")
    memory.warm([[1, 2, 3]], namespace="b")
    memory.learn_vocabulary(np.array([[1, 2], [2, 3], [3, 4]], np.int32))
    memory.store.insert("request", [5, 6], Origin.PROMPT)
    memory.store.insert("request", [7, 8], Origin.OUTPUT)
    memory.store.recycle("request", [8], np.array([[9, 10]], np.int32))
    memory.store.forget("request")
    other = WAYS[way](memory)
    assert other.namespaces == memory.namespaces == {"a": 22, "b": 3, "default": 4}
    assert other.store.max_bytes == 2**20
    found, expected = other.store.snapshot(), memory.store.snapshot()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    other.store.insert("request", [1, 2], Origin.PROMPT)
    other.store.forget("request")
    assert other.namespaces["default"] == 6  # prompts are remembered


@pytest.mark.parametrize("way", WAYS)
def test_a_memory_is_copied_while_threads_write(memory, way):
    ended, faults = threading.Event(), []

    def write(seed):
        generator = np.random.default_rng(seed)
        try:
            while not ended.is_set():
                memory.store.insert(seed, generator.integers(0, 64, 20).tolist(), Origin.PROMPT)
                memory.store.insert(seed, generator.integers(0, 64, 20).tolist(), Origin.OUTPUT)
                memory.store.forget(seed)
        except Exception as fault:  # noqa: BLE001  # raised in the test
            faults.append(fault)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    others = [WAYS[way](memory) for _ in range(10)]
    ended.set()
    for thread in threads:
        thread.join()
    assert faults == []
    for other in others:
        other.warm(TEXT)
        assert drafted(other, [5, 6])


def test_the_parts_of_one_object_stay_one_part():
    memory = DraftMemory()
    first, second = copy.deepcopy((memory, memory))
    assert first is second is not memory
