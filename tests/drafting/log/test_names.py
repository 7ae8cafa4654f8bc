"""Names of namespaces: they count within the cap, and leave with the last of what their namespace holds."""

import numpy as np
import pytest

from helpers.drafts import MIN_MEMORY, branches, first_tokens, propose
from lookahead.drafting.log import requests
from lookahead.drafting.log.matches import NO_OWNER
from lookahead.drafting.log.ring import GAP
from lookahead.drafting.log.sizing import names_bytes
from lookahead.drafting.log.token_log import TokenLog
from lookahead.drafting.store import MAX_NAMESPACE_BYTES, Origin
from lookahead.drafting.trie.token_trie import TokenTrie
from lookahead.errors import ConfigError, UnsupportedMemoryError

pytestmark = pytest.mark.usefixtures("matches_alone")

PROMPT, OUTPUT = Origin.PROMPT, Origin.OUTPUT


def names_in(log):
    """The names that a log knows, found in each of its places."""
    known = log._namespaces
    names = list(log.tokens_by_namespace())
    assert sorted(known._by_name) == sorted(names) == sorted(one.name for one in known._by_owner.values())
    assert log.snapshot()["names"].tolist()[1:] == names
    assert known.nbytes == sum(map(requests.bytes_of, names)) <= known._max_bytes
    return names


def assert_counted_right(log):
    held = log._shared.owners[log._shared.tokens != GAP]
    for known in log._namespaces:
        assert known.tokens == np.count_nonzero(held == known.owner)


def with_answer(log, namespace, tokens, reads=()):
    log.open("request", namespace=namespace, reads=reads)
    log.insert("request", tokens, OUTPUT)
    log.forget("request")


def test_a_name_leaves_with_its_last_token():
    log = TokenLog(max_bytes=MIN_MEMORY)  # 256 tokens
    log.remember([1, 2, 3], "first")
    log.remember([1] * 251, "second")
    assert names_in(log) == ["first", "second"]
    log.remember([5], "third")  # over 1 and 2
    assert names_in(log) == ["first", "second", "third"]
    log.remember([5], "third")  # over 3 and its gap
    assert names_in(log) == ["second", "third"]
    log.remember([7] * 300, "fourth")
    assert names_in(log) == ["fourth"]
    assert log.tokens_by_namespace() == {"fourth": 255}
    assert_counted_right(log)


def test_evicted_namespaces_leave_no_trace():
    log = TokenLog(max_bytes=2**16)
    for number in range(3000):
        log.remember([number, number + 1], f"tenant {number}")
        assert log.nbytes <= 2**16
    names = names_in(log)
    assert names == [f"tenant {number}" for number in range(3000 - len(names), 3000)]
    assert 4 < len(names) < names_bytes(2**16) / 384
    assert_counted_right(log)
    held = log.snapshot()["tokens"]
    assert set(held[held != GAP].tolist()) == set(range(3000 - len(names), 3001))


def test_requests_that_leave_nothing_leave_no_name():
    log = TokenLog(max_bytes=2**16)
    for number in range(500):
        log.open(number, namespace=f"tenant {number}", reads=[f"tenant {number - 1}", "unknown"])
        log.insert(number, [1, 2, 3], PROMPT)
        log.forget(number)
    assert names_in(log) == []
    assert log._requests == {}


def test_a_name_stays_while_predictions_are_recycled_and_leaves_with_them():
    log = TokenLog(max_bytes=MIN_MEMORY)  # 32 entries
    log.open("one", namespace="one")
    log.insert("one", [1], PROMPT)
    log.recycle("one", [1], [[2]])
    log.forget("one")
    assert names_in(log) == ["one"]
    log.open("other", namespace="other")
    log.insert("other", [1], PROMPT)
    log.recycle("other", range(40), [[2]] * 40)
    assert names_in(log) == ["other"]


def test_a_name_stays_while_a_request_reads_it():
    log = TokenLog(max_bytes=MIN_MEMORY)
    log.remember([1, 2, 3], "library")
    log.open("reader", namespace="tenant", reads=["library"])
    log.remember([7] * 300, "loud")
    assert names_in(log) == ["library", "tenant", "loud"]
    log.remember([4, 5, 6], "library")
    log.insert("reader", [4], PROMPT)
    assert branches(propose(log, "reader")) == [[5, 6]]
    log.forget_namespace("library")
    assert "library" in names_in(log)
    log.forget("reader")
    assert names_in(log) == ["loud"]


def test_a_request_opened_twice_keeps_its_names_once():
    log = TokenLog()
    for namespace in ("first", "second"):
        log.open("request", namespace=namespace)
    log.forget("request")
    assert names_in(log) == []


def test_the_least_recently_used_names_leave_first_and_none_of_a_live_request():
    log = TokenLog(max_bytes=2**16)
    log.remember([1], "live")
    log.remember([2], "old")
    log.remember([3], "used again")
    log.open("request", namespace="live")
    for number in range(9):
        log.remember([4], f"{number}")
    log.remember([3], "used again")
    room = log._namespaces._max_bytes - log._namespaces.nbytes
    for number in range(room // requests.bytes_of("new 1") + 1):
        log.remember([5], f"new {number}")
    assert {"live", "used again"} <= set(names_in(log))
    assert "old" not in names_in(log)
    assert_counted_right(log)


def test_where_live_requests_leave_no_room_for_a_name_nothing_fails_and_nothing_is_remembered():
    log = TokenLog(max_bytes=MIN_MEMORY)
    for number in range(9):
        log.open(number, namespace=f"{number}" * 256)
        log.insert(number, [1, 2, 1], OUTPUT)
        assert log.nbytes <= MIN_MEMORY
    known = names_in(log)
    assert 1 < len(known) < 9
    unnamed = log._requests[8]
    assert unnamed.owner == NO_OWNER
    log.recycle(8, [1], [[6]])
    assert 6 not in log._table.successors
    log.propose(8, decoding_length=4, branch_length=2, mode="hierarchical")
    log.remember([1, 2, 3], "warm")
    assert names_in(log) == known
    for number in range(8):
        log.forget(number)
    log.forget(8)  # now there is room
    assert "8" * 256 in names_in(log)
    assert_counted_right(log)


def test_names_that_do_not_fit_are_not_absorbed_and_the_newest_are():
    large, small = TokenLog(), TokenLog(max_bytes=2**16)
    for number in range(200):
        with_answer(large, f"tenant {number}", [number])
    small.remember([1], "mine")
    small.open("live", namespace="live")
    small.absorb(large.snapshot(), calibration=False)
    names = names_in(small)
    kept = len(names) - 1
    assert names == ["live", *(f"tenant {number}" for number in range(200 - kept, 200))]
    assert kept > 4
    assert_counted_right(small)
    small.forget("live")
    assert_counted_right(small)


def test_numbers_start_again_when_they_are_used_up(monkeypatch):
    monkeypatch.setattr(requests, "LARGEST_OWNER", 5)
    log = TokenLog()
    log.remember([1, 2, 3], "kept")
    for number in range(20):
        log.remember([1, 4], f"{number}")
        assert log.tokens_by_namespace() == {"kept": 3, f"{number}": 2}
        log.open("now", namespace="kept")
        log.insert("now", [1], PROMPT)
        assert first_tokens(propose(log)) == [2]
        log.forget("now")
        log.forget_namespace(f"{number}")


@pytest.mark.parametrize("name", ["n" * (MAX_NAMESPACE_BYTES + 1), "ä" * 129, "n" * 10**6, "\ud800"])
def test_names_that_are_too_long_or_no_text_are_refused_at_every_door(name):
    log, trie = TokenLog(), TokenTrie()
    doors = [
        lambda: log.open("request", namespace=name),
        lambda: log.open("request", reads=["a", name]),
        lambda: log.remember([1], name),
        lambda: log.forget_namespace(name),
        lambda: trie.open("request", namespace=name),
        lambda: trie.remember([1], name),
    ]
    for door in doors:
        with pytest.raises(ConfigError, match=r"is not allowed: (it has \d+ characters; give|it has a lone)"):
            door()
    assert names_in(log) == []
    assert log._requests == trie._requests == {}


def test_a_name_may_have_as_many_bytes_as_allowed():
    log = TokenLog()
    for name in ("n" * MAX_NAMESPACE_BYTES, "ä" * (MAX_NAMESPACE_BYTES // 2)):
        log.remember([1], name)
    assert len(names_in(log)) == 2


def test_the_vocabulary_cannot_be_forgotten_as_a_namespace():
    log = TokenLog()
    log.learn_vocabulary([[5], [6]])
    with pytest.raises(ConfigError, match="no NUL"):
        log.forget_namespace("\0vocabulary")
    log.insert("now", [1], PROMPT)
    assert first_tokens(propose(log, depth=1)) == [6]


def test_a_trie_keeps_no_names():
    trie = TokenTrie()
    for number in range(20):
        with pytest.raises(UnsupportedMemoryError):
            trie.open(number, namespace=f"tenant {number}")
        with pytest.raises(UnsupportedMemoryError):
            trie.remember([1], f"tenant {number}")
    assert trie._requests == {}
    assert trie.node_count == 2
