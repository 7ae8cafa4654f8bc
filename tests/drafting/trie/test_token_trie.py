"""TokenTrie by hand: what it remembers, what it drafts, and the published trie's faults, one test each."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from helpers.drafts import branches, memory_of, propose
from lookahead.drafting.store import Origin
from lookahead.drafting.trie import token_trie
from lookahead.drafting.trie.nodes import CLOCK
from lookahead.drafting.trie.pruning import LATEST_CLOCK
from lookahead.drafting.trie.token_trie import TokenTrie
from lookahead.errors import ConfigError, UnsupportedMemoryError
from oracles.pool_invariants import check_pool

PROMPT, OUTPUT = Origin.PROMPT, Origin.OUTPUT


# What is remembered, and for whom.


def test_an_answer_is_drafted_again_for_a_later_request():
    trie = memory_of([1, 2, 3, 4, 5])
    trie.insert("now", [9, 2], OUTPUT)
    assert branches(propose(trie)) == [[3, 4, 5]]


def test_a_prompt_is_drafted_for_its_own_request():
    trie = TokenTrie()
    trie.insert("now", [1, 2, 3, 4, 1], PROMPT)
    assert branches(propose(trie)) == [[2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1]]  # deeper than the trie itself


def test_nothing_known_means_a_plain_step():
    trie = memory_of([1, 2, 3])
    trie.insert("now", [7], OUTPUT)
    draft = propose(trie)
    assert draft.token_ids.tolist() == [7]


def test_what_was_seen_more_often_comes_first():
    trie = memory_of([1, 2], [1, 3], [1, 3], [1, 4])
    trie.insert("now", [1], OUTPUT)
    assert [branch[0] for branch in branches(propose(trie, depth=1))] == [3, 4, 2]  # and then what was later


def test_streaming_token_by_token_and_all_at_once_give_one_memory():
    tokens = [1, 2, 0, 1, 2, 0, 3, 1, 2]
    at_once, streamed = memory_of(tokens), TokenTrie()
    for token in tokens:
        streamed.insert("earlier", [token], OUTPUT)
    streamed.forget("earlier")
    for one, other in zip(at_once.snapshot().values(), streamed.snapshot().values(), strict=True):
        np.testing.assert_array_equal(one, other)


# The published implementation's faults.


def test_token_id_0_is_a_token_like_any_other():
    trie = memory_of([0, 0, 5, 0])
    trie.insert("now", [0], OUTPUT)
    assert {branch[0] for branch in branches(propose(trie, depth=1))} == {0, 5}
    trie.insert("now", [5], OUTPUT)
    assert branches(propose(trie))[0][0] == 0


def test_an_end_of_sequence_inside_a_prompt_drops_nothing_after_it():
    end_of_sequence = 2
    trie = TokenTrie()
    trie.insert("now", [10, 11, end_of_sequence, 12, 13, 14, 10, 11], PROMPT)
    assert branches(propose(trie, depth=4)) == [[end_of_sequence, 12, 13, 14]]


def test_a_prompts_branch_is_drafted_however_large_the_shared_subtree_is():
    trie = memory_of(*([1, other, other] for other in range(100, 160)))
    trie.insert("now", [1, 7, 8, 1], PROMPT)
    trie.insert("now", [1], OUTPUT)
    assert [7, 8] in [branch[:2] for branch in branches(propose(trie, length=8))]


def test_a_prompt_never_shows_in_another_request():
    secret = [50, 51, 52, 53]
    trie = TokenTrie()
    trie.insert("first", secret, PROMPT)
    trie.insert("first", [1, 2], OUTPUT)
    trie.insert("beside", [1, 50], OUTPUT)
    assert branches(propose(trie, "beside")) == []
    trie.forget("first")
    trie.insert("later", [50], PROMPT)
    assert branches(propose(trie, "later")) == []
    trie.insert("later", [1, 50], OUTPUT)
    assert not {51, 52, 53} & set(propose(trie, "later").token_ids.tolist())


def test_an_answers_first_token_is_no_continuation_of_the_prompt_for_others():
    trie = TokenTrie()
    trie.insert("first", [1, 2], PROMPT)
    trie.insert("first", [3], OUTPUT)
    trie.insert("beside", [1, 2], OUTPUT)
    assert branches(propose(trie, "beside")) == []


def test_a_shorter_match_adds_to_a_longer_one_and_overwrites_nothing():
    trie = memory_of([1, 2, 3], *([[8, 2, 4]] * 5), *([[9, 2, 3]] * 2))
    trie.insert("now", [1, 2], OUTPUT)
    draft = propose(trie, depth=1)
    assert [branch[0] for branch in branches(draft)] == [3, 4]  # the longer match's first, though rarer
    alone = memory_of([1, 2, 3])
    alone.insert("now", [1, 2], OUTPUT)
    assert draft.probabilities[1] >= propose(alone, depth=1).probabilities[1]


def test_a_token_is_matched_as_soon_as_it_is_inserted():
    trie = TokenTrie()
    for token, expected in [(1, []), (2, []), (1, [[2]]), (3, []), (1, [[3], [2]]), (2, [[1]])]:
        trie.insert("now", [token], OUTPUT)
        assert [branch[:1] for branch in branches(propose(trie, depth=1))] == expected


def test_the_tail_of_an_answer_is_not_lost():
    trie = memory_of([1, 2, 3, 4, 5, 6, 7, 8, 9])
    trie.insert("now", [8], OUTPUT)
    assert branches(propose(trie)) == [[9]]


def test_pruning_is_driven_by_the_cap_and_spares_what_is_seen_often():
    trie = TokenTrie(max_nodes=600)
    random = np.random.default_rng(0)
    for name in range(60):
        trie.insert(name, [1, 2, 3, 4], OUTPUT)
        trie.insert(name, random.integers(100, 10_000, 30), OUTPUT)
        trie.forget(name)
        assert trie.node_count <= trie.max_nodes == 600
    trie.insert("now", [1], OUTPUT)
    assert branches(propose(trie))[0][:3] == [2, 3, 4]
    check_pool(trie, counts_are_exact=False)


def test_nothing_hangs_from_a_stop_word_alone():
    trie = memory_of([1, 2, 3], [4, 2, 5], stop_words=frozenset({2}))
    trie.insert("now", [2], OUTPUT)
    assert branches(propose(trie)) == []
    trie.insert("now", [4, 2], OUTPUT)  # with what stands before it a stop word says something
    assert branches(propose(trie)) == [[5]]


def test_the_hit_rate_of_a_kind_of_context_is_learned():
    # What follows 5 is the same again and again, what follows 6 another one each time.
    trie = TokenTrie(context_length=1)
    for other in range(20, 80):
        trie.insert("now", [5, 7, 6, other], OUTPUT)
    trie.insert("now", [5], OUTPUT)
    assert propose(trie, depth=1).probabilities[1:].sum() > 0.9
    trie.insert("now", [7, 6], OUTPUT)
    assert propose(trie, depth=1).probabilities[1:].sum() < 0.2


# Ends, errors, limits.


def test_the_end_of_a_request_gives_its_nodes_back():
    trie = TokenTrie()
    before = trie.node_count
    trie.insert("now", list(range(100)), PROMPT)
    assert trie.node_count > before
    trie.forget("now")
    assert trie.node_count == before
    check_pool(trie, counts_are_exact=True)


def test_an_aborted_request_leaves_its_answer_so_far_and_no_prompt():
    trie = TokenTrie()
    trie.insert("aborted", [50, 51, 52], PROMPT)
    trie.insert("aborted", [1, 2, 3], OUTPUT)
    trie.forget("aborted")
    trie.insert("now", [1], OUTPUT)
    assert branches(propose(trie)) == [[2, 3]]
    assert not np.isin([50, 51, 52], trie._pool.token).any()  # not even in nodes that are free


@pytest.mark.parametrize("request_id", ["never", "forgotten", "empty"])
def test_an_unknown_request_is_a_key_error(request_id):
    trie = TokenTrie()
    trie.insert("forgotten", [1], PROMPT)
    trie.forget("forgotten")
    trie.insert("empty", [], PROMPT)
    with pytest.raises(KeyError):
        propose(trie, request_id)


def test_forgetting_an_unknown_request_does_nothing():
    trie = memory_of([1, 2])
    before = trie.node_count
    trie.forget("never")
    assert trie.node_count == before


@pytest.mark.parametrize(
    "tokens", [[1, -1], [1, 2**31], [1, 2**70], [1.0, 2.5], [[1, 2], [3, 4]], ["1"], [None], 5, [True]]
)
def test_what_is_no_sequence_of_token_ids_is_refused_and_nothing_inserted(tokens):
    trie = TokenTrie()
    before = trie.node_count
    with pytest.raises(ValueError, match="token ids must be"):
        trie.insert("now", tokens, PROMPT)
    assert trie.node_count == before
    with pytest.raises(KeyError):
        propose(trie)


@pytest.mark.parametrize("kind", [np.int64, np.uint16, np.int32])
def test_any_integers_are_token_ids(kind):
    trie = TokenTrie()
    trie.insert("now", np.array([1, 2, 1], kind), PROMPT)
    assert branches(propose(trie, depth=1)) == [[2]]


def test_the_largest_token_id_is_allowed():
    trie = memory_of([1, 2**31 - 1])
    trie.insert("now", [1], OUTPUT)
    assert branches(propose(trie)) == [[2**31 - 1]]


@pytest.mark.parametrize("length", [0, -3])
def test_a_draft_without_room_for_node_0_is_refused(length):
    trie = memory_of([1, 2])
    trie.insert("now", [1], OUTPUT)
    with pytest.raises(ValueError, match="give 1 or more"):
        propose(trie, length=length)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_nodes": 31}, "leave room for 31 nodes; at least 32 are needed"),
        ({"max_bytes": 2000}, "leave room for 0 nodes"),
        ({"max_nodes": 16, "context_length": 4}, "leave room for 16 nodes; at least 20 are needed"),
        ({"context_length": 0}, "context_length=0 is not allowed; give 1 to 15"),
        ({"context_length": 16}, "context_length=16 is not allowed; give 1 to 15"),
    ],
)
def test_caps_that_leave_no_memory_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        TokenTrie(**settings)


@pytest.mark.parametrize("stop_words", [0, 2000])
def test_bytes_stay_under_their_cap_stop_words_and_all(stop_words):
    trie = TokenTrie(max_bytes=300_000, stop_words=frozenset(range(stop_words)))
    random = np.random.default_rng(1)
    for name in range(20):
        trie.insert(name, random.integers(0, 50_000, 200), OUTPUT)
        assert trie.nbytes <= 300_000
        trie.forget(name)
    assert trie.nbytes > 200_000  # and it was full


def test_live_requests_that_fill_the_memory_are_still_drafted_for():
    trie = TokenTrie(max_nodes=64)
    trie.insert("large", np.arange(200), PROMPT)
    trie.insert("late", [1, 2, 3], PROMPT)  # finds no room, not even for a trie of its own
    assert propose(trie, "late").token_ids.tolist() == [3]
    trie.insert("large", [2], OUTPUT)
    assert branches(propose(trie, "large", depth=3)) == [[3, 4, 5]]  # matched, though no longer remembered
    assert trie.node_count <= 64
    trie.forget("large")
    trie.insert("late", [1, 2, 1], OUTPUT)
    assert branches(propose(trie, "late"))[0][:1] == [2]  # there is room again
    trie.forget("late")
    check_pool(trie, counts_are_exact=False)


def test_the_pool_grows_with_use():
    trie = TokenTrie(max_nodes=10**6)
    small = trie.nbytes
    trie.insert("now", np.arange(5000), OUTPUT)
    assert trie.nbytes > 4 * small
    trie.insert("now", [17], OUTPUT)
    assert branches(propose(trie, depth=3)) == [[18, 19, 20]]


def test_the_clock_is_set_back_before_it_overflows():
    trie = memory_of([1, 2, 3], [1, 2, 4])
    trie._pool.meta[CLOCK] = 2**31 - 100
    trie.insert("now", [1, 2, 3, 1], OUTPUT)
    assert 0 < trie._pool.meta[CLOCK] <= 2**31 - 100 - LATEST_CLOCK // 2 + 8
    trie.insert("now", [2], OUTPUT)
    assert [branch[0] for branch in branches(propose(trie, depth=1))] == [3, 4]
    check_pool(trie, counts_are_exact=False)


def test_a_snapshot_is_a_copy_of_what_outlives_requests():
    trie = memory_of([1, 2, 3])
    trie.insert("now", [77, 78], PROMPT)
    snapshot = trie.snapshot()
    #  root ─ 3
    #   ├──── 2 ─ 3
    #   └──── 1 ─ 2 ─ 3        parents first, the most recent sibling first
    assert snapshot["token"].tolist() == [-1, 3, 2, 1, 3, 2, 3]
    assert snapshot["parent"].tolist() == [-1, 0, 0, 0, 2, 3, 5]
    assert snapshot["seen"].tolist() == [0, 1, 1, 1, 1, 1, 1]
    for column in snapshot.values():
        column[...] = 0
    trie.insert("now", [1], OUTPUT)
    assert branches(propose(trie)) == [[2, 3]]


def test_ctrl_c_while_pruning_leaves_no_context_on_a_freed_node(monkeypatch):
    trie = TokenTrie(max_nodes=100)

    def interrupted_prune(*arguments):
        prune(*arguments)
        raise KeyboardInterrupt

    prune = token_trie.prune
    monkeypatch.setattr(token_trie, "prune", interrupted_prune)
    with pytest.raises(KeyboardInterrupt):
        trie.insert("now", np.arange(40), OUTPUT)
    check_pool(trie, counts_are_exact=False)
    monkeypatch.undo()
    trie.insert("now", [1, 2], OUTPUT)
    check_pool(trie, counts_are_exact=False)


def test_threads_may_share_a_memory():
    trie = TokenTrie(max_nodes=3000)

    def live(name):
        random = np.random.default_rng(name)
        for _ in range(5):
            trie.insert(name, random.integers(0, 9, 20), PROMPT)
            for _ in range(20):
                trie.insert(name, random.integers(0, 9, 3), OUTPUT)
                assert len(propose(trie, name, length=8)) <= 8
            trie.forget(name)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(live, range(4)))
    assert trie._requests == {}
    assert trie.node_count <= 3000
    check_pool(trie, counts_are_exact=False)


@pytest.mark.parametrize("stop_words", [{-1}, {2**31}, {"the"}, {1.0}])
def test_stop_words_must_be_token_ids(stop_words):
    with pytest.raises(ConfigError, match=r"stop_words: each=.* give an integer from 0"):
        TokenTrie(stop_words=stop_words)


def test_one_stop_word_must_still_come_in_a_set():
    with pytest.raises(ConfigError, match="stop_words=5 is not allowed; give a set of token ids"):
        TokenTrie(stop_words=5)


def test_a_trie_has_the_default_namespace_only():
    trie = TokenTrie()
    trie.open("request", namespace="default", reads=("default",))
    trie.remember([1, 2, 3])
    for refused in (
        lambda: trie.open("request", namespace="tenant"),
        lambda: trie.open("request", reads=("tenant",)),
        lambda: trie.remember([1], "tenant"),
    ):
        with pytest.raises(UnsupportedMemoryError, match="not 'tenant'"):
            refused()
