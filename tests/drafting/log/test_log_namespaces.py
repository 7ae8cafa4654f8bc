"""TokenLog by hand: whose texts and recycled successors are whose, and what a snapshot takes along."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from helpers.drafts import MIN_MEMORY, branches, first_tokens, log_of, propose
from lookahead.drafting.growth.candidates import NOT_DRAFTED, OWN, RECYCLED, SHARED
from lookahead.drafting.log import token_log
from lookahead.drafting.log.ring import GAP
from lookahead.drafting.log.token_log import TokenLog
from lookahead.drafting.store import DEFAULT_NAMESPACE, Origin
from oracles.naive_log import heads_of

pytestmark = pytest.mark.usefixtures("matches_alone")

PROMPT, OUTPUT = Origin.PROMPT, Origin.OUTPUT


def opened(log, name, namespace, tokens, reads=()):
    log.open(name, namespace=namespace, reads=reads)
    log.insert(name, tokens, PROMPT)
    return name


def test_an_answer_is_drafted_in_its_own_namespace_alone():
    log = TokenLog()
    opened(log, "first", "tenant", [9])
    log.insert("first", [1, 2, 3], OUTPUT)
    log.forget("first")
    opened(log, "same", "tenant", [1])
    opened(log, "other", "other", [1])
    log.insert("default", [1], PROMPT)
    assert branches(propose(log, "same")) == [[2, 3]]
    assert branches(propose(log, "other")) == branches(propose(log, "default")) == []
    assert list(log.tokens_by_namespace().items()) == [("tenant", 3), ("other", 0), ("default", 0)]


def test_a_request_drafts_from_what_it_reads_too_and_leaves_nothing_there():
    log = TokenLog()
    log.remember([1, 2, 3], "library")
    opened(log, "now", "tenant", [1], reads=["unknown", "library", "tenant", "library"])
    assert branches(propose(log)) == [[2, 3]]
    log.insert("now", [2, 4, 5], OUTPUT)
    log.forget("now")
    assert log.tokens_by_namespace() == {"library": 3, "tenant": 3}  # reading makes none
    opened(log, "reader", "library", [4])
    assert branches(propose(log, "reader")) == []
    assert list(log.tokens_by_namespace()) == ["library", "tenant"]


def test_longer_matches_of_what_is_read_go_before_the_namespaces_own():
    log = TokenLog()
    log.remember([1, 5], "tenant")
    log.remember([8, 1, 6], "library")
    opened(log, "now", "tenant", [8, 1], reads=["library"])
    assert first_tokens(propose(log, depth=1)) == [6, 5]


def test_namespaces_whose_tokens_share_a_head_are_told_apart():
    heads = token_log._FIRST_RING // 2
    twin = next(
        token for token in range(10**6) if len({heads_of([token], o, heads)[-1] for o in (1, 2)}) == 1
    )
    log = TokenLog()
    for _ in range(3):
        log.remember([twin, 5], "one")
        log.remember([twin, 6], "two")
    for namespace, expected in [("one", [[5]]), ("two", [[6]])]:
        opened(log, namespace, namespace, [twin])
        assert branches(propose(log, namespace)) == expected


def test_a_forgotten_namespace_is_gone_and_no_other_one():
    log = TokenLog()
    for namespace in ("gone", "kept"):
        log.remember([1, 2, 3], namespace)
        opened(log, namespace, namespace, [7, 8, 7])
        log.recycle(namespace, [7, 1], [[40], [41]])
    log.forget_namespace("gone")
    log.forget_namespace("unknown")
    assert log.tokens_by_namespace() == {"gone": 0, "kept": 3}
    assert first_tokens(propose(log, "gone")) == [8]
    assert set(first_tokens(propose(log, "kept"))) == {8, 40}
    log.insert("gone", [1], OUTPUT)
    assert branches(propose(log, "gone")) == []  # its request lives on, with its own answer
    log.insert("gone", [5], OUTPUT)
    log.forget("gone")
    opened(log, "later", "gone", [1])
    assert branches(propose(log, "later")) == [[5]]


# The model's recycled successors.


def test_recycled_successors_are_drafted_where_nothing_matches():
    log = TokenLog()
    log.insert("now", [1], PROMPT)
    log.recycle("now", [1, 2], np.array([[2, 3], [4, 5]]))
    assert propose(log, depth=1).token_ids.tolist() == [1, 2, 3]  # most probable first
    assert [2, 4] in branches(propose(log))
    log.recycle("now", [1], [[6]])
    assert first_tokens(propose(log)) == [6]  # the last time counts


def test_a_recycled_successor_that_is_given_twice_is_one_node():
    log = TokenLog()
    log.insert("now", [1], PROMPT)
    log.recycle("now", [1], [[2, 2, 3, 2]])
    assert propose(log, depth=1).token_ids.tolist() == [1, 2, 3]


def test_the_first_readable_namespace_that_knows_any_successors_tells_them():
    log = TokenLog()
    for namespace, tokens, successor in [("library", [2, 3], 5), ("tenant", [1, 3], 6)]:
        opened(log, "earlier", namespace, [9])
        log.recycle("earlier", tokens, [[successor], [successor]])
        log.forget("earlier")
    opened(log, "now", "tenant", [9], reads=["library"])
    for token, expected in [(1, 6), (2, 5), (3, 6)]:
        log.insert("now", [token], PROMPT)
        assert branches(propose(log, depth=1)) == [[expected]]
    opened(log, "stranger", "stranger", [3])
    assert branches(propose(log, "stranger")) == []


@pytest.mark.parametrize(("reads", "expected"), [(["one", "two"], 5), (["two", "one"], 6)])
def test_of_several_namespaces_read_the_first_named_is_asked_first(reads, expected):
    log = TokenLog()
    for namespace, successor in [("one", 5), ("two", 6)]:
        opened(log, "earlier", namespace, [9])
        log.recycle("earlier", [1], [[successor]])
        log.forget("earlier")
        log.remember([2, successor], namespace)
    opened(log, "now", "tenant", [1], reads=reads)
    assert branches(propose(log, depth=1)) == [[expected]]
    log.insert("now", [2], PROMPT)
    assert first_tokens(propose(log, depth=1)) == [expected, 11 - expected]


def test_recycled_successors_of_matched_tokens_add_to_matches():
    log = log_of([1, 2])
    log.insert("now", [1], OUTPUT)
    log.recycle("now", [1], [[3, 2]])
    assert sorted(first_tokens(propose(log, depth=1))) == [2, 3]


def test_recycling_nothing_does_nothing():
    log = log_of([1, 2])
    log.insert("now", [1], OUTPUT)
    log.recycle("now", [], np.empty((0, 8), np.int32))
    assert branches(propose(log)) == [[2]]


@pytest.mark.parametrize(
    "successors", [[1, 2], [[1, 2]], [[1], [2], [3]], [[[1]], [[2]]], [[-1], [2]], [[0.5], [1]]]
)
def test_successors_that_do_not_fit_their_tokens_are_refused_and_nothing_remembered(successors):
    log = TokenLog()
    log.insert("now", [1], OUTPUT)
    with pytest.raises(ValueError, match="must be"):
        log.recycle("now", [1, 2], successors)
    assert branches(propose(log)) == []
    with pytest.raises(KeyError):
        log.recycle("never", [1], [[1]])


def test_the_table_of_successors_forgets_its_older_half_at_its_cap():
    log = TokenLog(max_bytes=MIN_MEMORY)  # 64 buckets, 32 entries
    log.insert("now", [0], PROMPT)
    for token in range(33):
        log.recycle("now", [token], [[token + 100]])
        assert log.nbytes <= MIN_MEMORY
    drafted = []
    for token in range(33):
        log.insert("now", [token], PROMPT)
        drafted.append(token + 100 in propose(log).token_ids)
    assert drafted == [False] * 16 + [True] * 17


# Prompts, texts, snapshots.


def test_prompts_are_remembered_where_it_is_asked_for():
    log = TokenLog(remember_prompts=True)
    log.insert("first", [1, 2], PROMPT)
    log.insert("first", [3], OUTPUT)
    log.forget("first")
    log.insert("second", [8, 9], PROMPT)
    log.forget("second")
    assert log.snapshot()["tokens"].tolist() == [1, 2, 3, GAP, 8, 9, GAP]


def test_a_text_is_remembered_as_an_answer_would_be():
    log = TokenLog()
    log.remember([1, 2, 3])
    log.remember([])
    with pytest.raises(ValueError, match="token ids must be"):
        log.remember([1, -1])
    assert log.snapshot()["tokens"].tolist() == [1, 2, 3, GAP]
    log.insert("now", [1], PROMPT)
    assert branches(propose(log)) == [[2, 3]]


def lived_log(**settings):
    log = TokenLog(**settings)
    random = np.random.default_rng(3)
    for name in range(12):
        opened(log, name, ("one", "two", "three")[name % 3], random.integers(0, 6, 20), reads=["one"])
        for _ in range(10):
            propose(log, name)
            tokens = random.integers(0, 6, 4)
            log.insert(name, tokens, OUTPUT)
            log.recycle(name, tokens, random.integers(0, 6, (4, 3)))
        log.forget(name)
    return log


def test_a_snapshot_absorbed_by_an_empty_log_is_the_same_memory():
    log, other = lived_log(), TokenLog()
    snapshot = log.snapshot()
    other.absorb(snapshot, calibration=True)
    for name, array in other.snapshot().items():
        np.testing.assert_array_equal(array, snapshot[name], err_msg=name)
    for memory in (log, other):
        # its calibration is saved, that of other namespaces is not
        opened(memory, "now", DEFAULT_NAMESPACE, [1, 2, 3], reads=["two", "three"])
    one, same = propose(log, length=40), propose(other, length=40)
    np.testing.assert_array_equal(one.token_ids, same.token_ids)
    np.testing.assert_array_equal(one.probabilities, same.probabilities)


def test_snapshots_merge_by_the_names_of_namespaces():
    log, other = TokenLog(), TokenLog()
    other.remember([1, 2], "two")  # 1 there, 2 here
    other.remember([3, 4], "one")
    log.remember([5, 6], "one")
    for memory, namespace, successor in [(log, "two", 70), (other, "two", 71)]:
        opened(memory, "earlier", namespace, [9])
        memory.recycle("earlier", [8], [[successor]])
        memory.forget("earlier")
    hit_rates = log.snapshot()["hit_rates"]
    other.remember([3, 4], DEFAULT_NAMESPACE)
    known = other._namespaces.named(DEFAULT_NAMESPACE)
    other._calibrations.of(known.owner).calibration.hit_rates[:] += 1
    log.absorb(other.snapshot(), calibration=False)
    assert log.tokens_by_namespace() == {"one": 4, "two": 2, DEFAULT_NAMESPACE: 2}
    assert (log.snapshot()["hit_rates"] == hit_rates).all()
    for namespace, prompt, drafted in [("one", 3, [4]), ("one", 5, [6]), ("two", 1, [2]), ("two", 8, [71])]:
        opened(log, prompt, namespace, [prompt])
        assert first_tokens(propose(log, prompt)) == drafted
    opened(log, "stranger", "one", [1])
    assert branches(propose(log, "stranger")) == []
    log.absorb(other.snapshot(), calibration=True)
    assert (log.snapshot()["hit_rates"] == hit_rates + 1).all()


def test_a_snapshot_larger_than_the_memory_leaves_its_newest_part():
    log, large = TokenLog(max_bytes=MIN_MEMORY), lived_log()
    log.absorb(large.snapshot(), calibration=False)
    assert log.nbytes <= MIN_MEMORY
    assert log.snapshot()["tokens"].tolist() == large.snapshot()["tokens"].tolist()[-256:]
    log.absorb(TokenLog().snapshot(), calibration=False)
    assert len(log.snapshot()["tokens"]) == 256


def test_a_request_that_was_opened_but_has_inserted_nothing_is_a_key_error():
    log = log_of([1, 2])
    log.open("now")
    with pytest.raises(KeyError):
        propose(log)
    log.insert("now", [1], PROMPT)
    assert branches(propose(log)) == [[2]]


def test_what_is_read_of_a_memory_may_be_read_while_others_write():
    log = TokenLog(max_bytes=2**22)

    def live(name):
        for number in range(150):
            opened(log, (name, number), f"tenant {name}", [1, 2, 3])
            log.recycle((name, number), [1], [[2]])
            propose(log, (name, number))
            log.insert((name, number), [4] * 60, OUTPUT)
            if number % 3:
                log.forget((name, number))

    with ThreadPoolExecutor(4) as pool:
        lives = [pool.submit(live, name) for name in range(3)]
        while not all(life.done() for life in lives):
            assert log.nbytes <= 2**22
            held = log.tokens_by_namespace()
            assert held.get("tenant 1", 0) <= 150 * 60
            assert len(held) <= 3
            log.snapshot()
        for life in lives:
            life.result()
    assert sorted(log.tokens_by_namespace().items()) == [(f"tenant {name}", 100 * 60) for name in range(3)]


@pytest.mark.parametrize("texts", [0, 30])
def test_what_is_learned_about_sources_in_one_namespace_changes_no_draft_of_another(texts):
    random, log = np.random.default_rng(1), TokenLog(max_bytes=2**23)
    for text in range(texts):
        opened(log, text, "tenant-a", random.integers(0, 5, 20).tolist())
        for _ in range(20):
            propose(log, text)
            log.insert(text, random.integers(0, 5, 2).tolist(), OUTPUT)
        log.forget(text)
    opened(log, "b", "tenant-b", [1, 2, 3, 1, 2, 3, 1, 2])
    draft = propose(log, "b")
    fresh = TokenLog(max_bytes=2**23)
    opened(fresh, "b", "tenant-b", [1, 2, 3, 1, 2, 3, 1, 2])
    expected = propose(fresh, "b")
    np.testing.assert_array_equal(draft.token_ids, expected.token_ids)
    np.testing.assert_array_equal(draft.probabilities, expected.probabilities)


def test_a_request_that_is_not_remembered_leaves_nothing():
    log = TokenLog(max_bytes=2**23, remember_prompts=True)
    log.open("secret", namespace="a", remember=False)
    log.insert("secret", [1, 2, 3], PROMPT)
    log.insert("secret", [4, 5], OUTPUT)
    log.recycle("secret", [4], [[7, 8]])
    assert first_tokens(propose(log, "secret"))[:1] != [7]
    log.forget("secret")
    assert log.tokens_by_namespace() == {}
    snapshot = log.snapshot()
    assert len(snapshot["tokens"]) == len(snapshot["keys"]) == 0


def test_sources_say_where_accepted_tokens_were_drafted_from():
    log = TokenLog(max_bytes=2**23)
    log.remember([10, 11, 12, 13], "a")
    opened(log, "one", "a", [1, 2, 3, 1, 2])
    propose(log, "one")
    log.insert("one", [3, 1, 9], OUTPUT)  # two were drafted, the last one was chosen after them
    assert log.sources("one").tolist() == [OWN, OWN, NOT_DRAFTED]
    log.insert("one", [10, 11], OUTPUT)  # without a draft
    assert log.sources("one").tolist() == [NOT_DRAFTED, NOT_DRAFTED]
    propose(log, "one")
    log.insert("one", [12, 13, 5], OUTPUT)
    assert log.sources("one").tolist() == [SHARED, SHARED, NOT_DRAFTED]
    log.recycle("one", [5], [[6, 7]])
    propose(log, "one")
    log.insert("one", [6, 0], OUTPUT)
    assert log.sources("one").tolist() == [RECYCLED, NOT_DRAFTED]
