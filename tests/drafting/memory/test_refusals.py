"""What is refused changes nothing; no token id beyond its vocabulary comes in by any door."""

import numpy as np
import pytest

from helpers import tiny_models
from helpers.drafts import propose
from lookahead import DraftMemory
from lookahead.drafting.memory.snapshots import MAX_VOCABULARY
from lookahead.drafting.store import Origin
from lookahead.drafting.trie.token_trie import TokenTrie
from lookahead.errors import (
    ConfigError,
    LookaheadError,
    MemoryFileError,
    TokenIdError,
    UnsupportedMemoryError,
    VocabularyMismatchError,
)

TOKENIZER = tiny_models.tiny_tokenizer()


def other_tokenizer():
    other = tiny_models.tiny_tokenizer()
    other.add_tokens(["more"])
    return other


def lived(**bound):
    """A memory with a live request, several namespaces, recycled predictions and a vocabulary."""
    memory = DraftMemory(max_bytes=2**18)
    memory.warm([[1, 2, 3], [1, 2, 4]], namespace="a")
    memory.warm([[5, 6]], namespace="b")
    memory.learn_vocabulary(np.array([[5, 6], [7, 8]], np.int32))
    memory.store.open("live", namespace="c", reads=["b"])
    for token in (1, 2, 1, 2):
        memory.store.insert("live", [token], Origin.OUTPUT)
        propose(memory.store, "live")
    memory.store.recycle("live", [1], [[2, 3]])
    memory.bind(**bound)
    return memory


def state_of(memory):
    """All that a memory has, to the bit, in its order."""
    store = memory.store
    if isinstance(store, TokenTrie):
        parts = [array.tobytes() for array in (*store._pool, store._hit_rates)]
        return parts, list(store._requests), memory.vocabulary_size, memory.tokenizer_fingerprint
    rings = [store._shared, *(live.own for live in store._requests.values())]
    arrays = [array for ring in rings for array in (ring.cells, ring.heads, ring.end)]
    arrays += [*store._table]
    kept = store._calibrations
    arrays += [array for state in kept._states.values() for array in state] + [*kept._counts.values()]
    live = [(name, one.readable.tolist(), one.length, one.answer) for name, one in store._requests.items()]
    known = store._namespaces
    names = [(one.name, one.owner, one.tokens, one.requests) for one in known._by_name.values()]
    return (
        [array.tobytes() for array in arrays],
        str(live),
        (names, list(known._by_owner), known.nbytes, known._next_owner),
        (memory.vocabulary_size, memory.tokenizer_fingerprint, memory.nbytes, store.vocabulary_size),
    )


def of_tokens(*tokens, vocabulary_size=None, tokenizer=None):
    memory = DraftMemory()
    memory.store.remember(list(tokens), "other")
    memory._vocabulary_size = vocabulary_size
    memory.bind(tokenizer=tokenizer)
    return memory


BOUND = {"vocabulary_size": 64, "tokenizer": TOKENIZER}
MERGES = {
    "no memory": ({}, lambda: "memory.safetensors", ConfigError, "is no DraftMemory"),
    "a trie": ({}, lambda: DraftMemory(store="trie"), UnsupportedMemoryError, "TokenTrie"),
    "another size": (
        BOUND,
        lambda: of_tokens(1, vocabulary_size=65),
        VocabularyMismatchError,
        "64, not of 65",
    ),
    "another tokenizer": (
        BOUND,
        lambda: of_tokens(1, vocabulary_size=64, tokenizer=other_tokenizer()),
        VocabularyMismatchError,
        "of the tokenizer",
    ),
    "our tokens beyond its size": ({}, lambda: of_tokens(1, vocabulary_size=8), VocabularyMismatchError, "8"),
    "its tokens beyond ours": (BOUND, lambda: of_tokens(64), VocabularyMismatchError, "token 64 is beyond"),
    "its tokens beyond its own": (
        {},
        lambda: of_tokens(80, vocabulary_size=70, tokenizer=TOKENIZER),
        VocabularyMismatchError,
        "token 80 is beyond a vocabulary of 70",
    ),
    "its tokens beyond any": (
        {},
        lambda: of_tokens(2**31 - 1),
        TokenIdError,
        "token 2147483647 is beyond any",
    ),
}


@pytest.mark.parametrize("why", MERGES)
def test_a_refused_merge_changes_neither_memory(why):
    bound, make, error, message = MERGES[why]
    memory, other = lived(**bound), make()
    before = state_of(memory), state_of(other) if isinstance(other, DraftMemory) else None
    with pytest.raises(error, match=message):
        memory.merge(other)
    assert state_of(memory) == before[0]
    assert before[1] is None or state_of(other) == before[1]


def test_a_trie_refuses_to_merge_and_is_as_before():
    memory = DraftMemory(store="trie")
    memory.warm([[1, 2, 3]])
    before = state_of(memory)
    with pytest.raises(UnsupportedMemoryError):
        memory.merge(lived(**BOUND))
    with pytest.raises(UnsupportedMemoryError):
        memory.save("nowhere", tokenizer=TOKENIZER)
    with pytest.raises(TokenIdError):
        memory.warm([[1, 2], [3, -1]], tokenizer=TOKENIZER)
    assert state_of(memory) == before


WARMS = {
    "negative": ([[7], [1, -5]], {}, TokenIdError, "-5"),
    "beyond int32": ([[7], [1, 2**31]], {}, TokenIdError, "2147483648"),
    "beyond int64": ([[7], [1, 2**70]], {}, TokenIdError, "1180591620717411303424"),
    "no integer": ([[7], [1, 2.5]], {}, TokenIdError, "integers .* not 2.5"),
    "a bool": ([[7], np.array([True])], {}, TokenIdError, "True"),
    "no rows": ([[7], [1, [2]]], {}, TokenIdError, "one sequence of integers"),
    "no sequence": ([[7], 5], {}, TokenIdError, "not 5"),
    "absurd": ([[7], [1, MAX_VOCABULARY]], {}, TokenIdError, f"token {MAX_VOCABULARY} is beyond any"),
    "beyond the tokenizer": ([[7], [1, 64]], {"tokenizer": TOKENIZER}, VocabularyMismatchError, "token 64"),
    "another tokenizer": (["a"], {"tokenizer": other_tokenizer()}, VocabularyMismatchError, "tokenizer"),
    "a text alone": ([[7], "a"], {}, ConfigError, "tokenizer"),
    "a long name": ([[7]], {"namespace": "n" * 300}, ConfigError, "300 characters"),
}


@pytest.mark.parametrize("why", WARMS)
def test_refused_warming_changes_nothing(why):
    given, settings, error, message = WARMS[why]
    memory = lived(**BOUND) if why == "another tokenizer" else lived()
    before = state_of(memory)
    with pytest.raises(error, match=message) as raised:
        memory.warm(given, **settings)
    assert isinstance(raised.value, LookaheadError)
    assert state_of(memory) == before


def test_an_iterator_is_remembered_up_to_the_batch_that_is_refused():
    memory = DraftMemory()
    with pytest.raises(TokenIdError):
        memory.warm([1, 2] if number < 300 else [-1] for number in range(301))
    assert memory.namespaces == {"default": 2 * 256}


def test_the_bound_size_counts_and_not_the_tokenizers():
    memory = DraftMemory()
    memory.bind(vocabulary_size=100)  # models often have more rows than the tokenizer has tokens
    assert memory.warm([[99]], tokenizer=TOKENIZER) == 1
    with pytest.raises(VocabularyMismatchError, match="token 100 is beyond a vocabulary of 100"):
        memory.warm([[100]], tokenizer=TOKENIZER)


@pytest.mark.parametrize(
    ("successors", "error", "message"),
    [
        ([[1, 2], [3, -1]], TokenIdError, "-1"),
        ([[1, 2], [3, 2**31]], TokenIdError, "2147483648"),
        ([[1, 2], [3]], TokenIdError, "one sequence of integers"),
        ([[1.5]], TokenIdError, "integers"),
        ([[1], [64]], VocabularyMismatchError, "token 64 is beyond a vocabulary of 64"),
        ([[1]] * 65, VocabularyMismatchError, "token 64 is beyond a vocabulary of 64"),
        ([1, 2], ValueError, "one row for each token"),
        ([[1, 1]], ValueError, "the token 1 twice"),
    ],
)
def test_refused_successors_change_nothing(successors, error, message):
    memory = lived(**BOUND)
    before = state_of(memory)
    with pytest.raises(error, match=message):
        memory.learn_vocabulary(successors)
    assert state_of(memory) == before


def test_absurd_successors_are_refused_before_a_model_has_used_the_memory():
    memory = DraftMemory()
    with pytest.raises(TokenIdError, match="is beyond any vocabulary"):
        memory.learn_vocabulary([[2**30]])
    assert memory.contents().snapshot["keys"].tolist() == []


@pytest.mark.parametrize("namespace", ["", "\0vocabulary", None, ["a"], "n" * 300])
def test_forgetting_what_is_no_name_changes_nothing(namespace):
    memory = lived()
    before = state_of(memory)
    with pytest.raises(ConfigError, match="is not allowed"):
        memory.forget_namespace(namespace)
    memory.forget_namespace("unknown")
    assert state_of(memory) == before


@pytest.mark.parametrize("size", [0, -5, True, "64", 1.0])
def test_a_vocabulary_size_that_cannot_be_is_refused(size):
    memory = lived()
    before = state_of(memory)
    with pytest.raises(ConfigError, match=r"vocabulary_size=.* is not allowed"):
        memory.bind(vocabulary_size=size, tokenizer=TOKENIZER)
    assert state_of(memory) == before


def test_a_refused_binding_binds_nothing():
    memory = lived()
    before = state_of(memory)
    with pytest.raises(VocabularyMismatchError, match="token 8"):
        memory.bind(vocabulary_size=8, tokenizer=TOKENIZER)
    assert state_of(memory) == before


def test_a_file_with_absurd_token_ids_is_refused(tmp_path):
    of_tokens(1, 2 * 10**9).save(tmp_path / "memory")  # as earlier releases wrote them
    with pytest.raises(MemoryFileError, match=r"tokens are from -1 to 2000000000.*create it again"):
        DraftMemory.load(tmp_path / "memory")


def test_prompts_beyond_the_vocabulary_are_never_remembered(tmp_path):
    # Placeholders of images may be beyond it; or the model is about to refuse the prompt.
    memory = DraftMemory(remember_prompts=True)
    memory.bind(vocabulary_size=64)
    memory.store.insert("live", [1, 2, 64, 3, 4], Origin.PROMPT)
    memory.store.recycle("live", [64, 4, 5], [[1], [2], [70]])
    memory.store.forget("live")
    memory.save(tmp_path / "memory")
    held = DraftMemory.load(tmp_path / "memory", vocabulary_size=64).contents().snapshot
    assert held["tokens"].tolist() == [1, 2, -1, 3, 4, -1]
    assert (held["keys"] & (2**31 - 1)).tolist() == [4]
    assert memory.namespaces == {"default": 4}
