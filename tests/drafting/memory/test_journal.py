"""Memories that share what they learned: each text once, nothing sent back, nothing of what was forgotten."""

import pickle
from copy import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookahead import DraftMemory
from lookahead.drafting.memory import journal
from lookahead.drafting.memory.journal import LearnedText, MemoryUpdate
from lookahead.drafting.store import Origin
from lookahead.errors import ConfigError, TokenIdError, UnsupportedMemoryError, VocabularyMismatchError

pytestmark = pytest.mark.usefixtures("matches_alone")

MAX_BYTES = 2**22


def memories(count):
    made = [DraftMemory(max_bytes=MAX_BYTES) for _ in range(count)]
    for memory in made:
        memory.updates()  # begin to keep
    return made


def answer(memory, tokens, namespace="tenant"):
    memory.store.open("request", namespace=namespace)
    memory.store.insert("request", [1], Origin.PROMPT)
    memory.store.insert("request", tokens, Origin.OUTPUT)
    memory.store.forget("request")


def texts_of(update):
    return [(text.namespace, text.tokens.tolist()) for text in update.texts]


def test_what_one_learned_the_other_drafts():
    one, other = memories(2)
    answer(one, [5, 6, 7, 8])
    update = one.updates()
    assert texts_of(update) == [("tenant", [5, 6, 7, 8])]  # the answer, not the prompt
    assert other.apply(update) == 4
    other.store.open("now", namespace="tenant")
    other.store.insert("now", [5, 6], Origin.PROMPT)
    draft = other.store.propose("now", decoding_length=4, branch_length=4, mode="single")
    assert draft.token_ids.tolist() == [6, 7, 8]


def test_no_text_is_repeated_or_sent_back():
    one, other = memories(2)
    seen = {one: 0, other: 0}
    for number in range(10):
        answer(one, [number, number + 1])
        answer(other, [100 + number, 101 + number, 102 + number])
        for memory, peer in ((one, other), (other, one)):
            update = memory.updates(seen[memory])
            seen[memory] = update.end
            peer.apply(update)
            assert peer.apply(update) == 0  # it came twice
    assert one.namespaces == other.namespaces == {"tenant": 10 * 2 + 10 * 3}
    assert one.updates().end == other.updates().end == 10


def test_an_update_of_its_own_and_one_that_overlaps():
    one, other = memories(2)
    answer(one, [1, 2])
    first = one.updates()
    answer(one, [3, 4])
    assert one.apply(one.updates()) == 0
    assert (other.apply(first), other.apply(one.updates())) == (2, 2)
    assert other.namespaces == {"tenant": 4}


def test_what_is_loaded_merged_or_not_remembered_is_not_passed_on(tmp_path):
    (one,) = memories(1)
    answer(one, [1, 2])
    one.save(tmp_path / "memory.safetensors")
    loaded = DraftMemory.load(tmp_path / "memory.safetensors")
    assert texts_of(loaded.updates()) == []
    loaded.merge(one)
    loaded.store.open("secret", namespace="tenant", remember=False)
    loaded.store.insert("secret", [7, 8], Origin.OUTPUT)
    loaded.store.forget("secret")
    assert texts_of(loaded.updates()) == []
    loaded.warm([[9, 9]], namespace="library")
    assert texts_of(loaded.updates()) == [("library", [9, 9])]


def test_what_is_forgotten_is_not_passed_on():
    (one,) = memories(1)
    answer(one, [1, 2], "a")
    answer(one, [3, 4], "b")
    one.forget_namespace("a")
    update = one.updates()
    assert [text for text in texts_of(update) if text[1]] == [("b", [3, 4])]
    assert (update.end, update.forgotten) == (3, {"a"})


def test_the_journal_is_bounded(monkeypatch):
    monkeypatch.setattr(journal, "MAX_JOURNAL_TOKENS", 10)
    (one,) = memories(1)
    for number in range(6):
        answer(one, [number] * 3)
    update = one.updates(since=1)
    assert (update.begin, update.end, update.tokens) == (3, 6, 9)


@pytest.mark.parametrize("copied", [copy, lambda memory: pickle.loads(pickle.dumps(memory))])  # noqa: S301
def test_a_copy_learns_under_a_name_of_its_own(copied):
    (one,) = memories(1)
    answer(one, [1, 2])
    other = copied(one)
    answer(other, [3, 4])
    assert texts_of(other.updates()) == []  # it was not asked before
    answer(other, [5, 6])
    assert one.apply(other.updates()) == 2
    assert one.updates().source != other.updates().source


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (LearnedText("a", np.array([64], np.int32)), VocabularyMismatchError),
        (LearnedText("a", np.array([-1], np.int32)), TokenIdError),
        (LearnedText("", np.array([1], np.int32)), ConfigError),
        (LearnedText("a\0", np.array([1], np.int32)), ConfigError),
    ],
)
def test_a_refused_update_changes_nothing(text, error):
    (one,) = memories(1)
    one.bind(vocabulary_size=64)
    fine = LearnedText("a", np.array([1], np.int32))
    with pytest.raises(error):
        one.apply(MemoryUpdate(source="other", begin=0, texts=(fine, text)))
    assert one.namespaces == {}
    assert one.apply(MemoryUpdate(source="other", begin=0, texts=(fine,))) == 1
    with pytest.raises(VocabularyMismatchError):
        one.apply(MemoryUpdate(source="other", begin=1, texts=(fine,), vocabulary_size=65))


def test_a_trie_shares_nothing():
    with pytest.raises(UnsupportedMemoryError):
        DraftMemory(store="trie").updates()


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("learn"), st.integers(0, 2), st.sampled_from("ab"), st.integers(1, 5)),
        st.tuples(st.just("send"), st.integers(0, 2), st.integers(0, 2), st.booleans()),
    ),
    max_size=40,
)


@given(EVENTS)
@settings(max_examples=60, deadline=None)
def test_in_the_end_all_have_all_texts_once(events):
    """However updates are lost, repeated and reordered before."""
    made = memories(3)
    learned = {"a": 0, "b": 0}
    seen = {}
    for kind, first, second, value in events:
        if kind == "learn":
            answer(made[first], list(range(value)), second)
            learned[second] += value
        elif first != second:
            update = made[first].updates(seen.get((first, second), 0))
            if value:  # it arrives, perhaps not for the first time
                made[second].apply(update)
                seen[first, second] = update.end if value else 0
    for first in range(3):
        for second in range(3):
            made[second].apply(made[first].updates())
    expected = {name: count for name, count in learned.items() if count}
    assert [memory.namespaces for memory in made] == [expected] * 3
