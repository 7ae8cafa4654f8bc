"""TokenLog by hand: what it remembers and for whom, what it drafts, and how it grows and forgets."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from helpers.drafts import MIN_MEMORY, branches, first_tokens, log_of, propose
from lookahead.config import DraftMode
from lookahead.drafting.log import ring as log_ring
from lookahead.drafting.log import token_log
from lookahead.drafting.log.matches import LONGEST_MATCH, NO_OWNER, initial_hit_rates
from lookahead.drafting.log.ring import (
    GAP,
    MAX_SINGLE_HEADS,
    NO_INDEX,
    SMALLEST_RING,
    RingBuffer,
    newest_index,
    ring_bytes,
    ring_view,
)
from lookahead.drafting.log.token_log import TokenLog
from lookahead.drafting.store import Origin
from lookahead.errors import ConfigError
from oracles.naive_log import heads_of

pytestmark = pytest.mark.usefixtures("matches_alone")

PROMPT, OUTPUT = Origin.PROMPT, Origin.OUTPUT


# What is remembered, and for whom.


def test_an_answer_is_drafted_again_for_a_later_request():
    log = log_of([1, 2, 3, 4, 5])
    log.insert("now", [9, 2], OUTPUT)
    assert branches(propose(log)) == [[3, 4, 5]]


def test_a_prompt_is_drafted_for_its_own_request():
    log = TokenLog()
    log.insert("now", [1, 2, 3, 4, 1], PROMPT)
    assert branches(propose(log, depth=4)) == [[2, 3, 4, 1]]


def test_a_branch_goes_on_beyond_the_end_of_its_match():
    log = TokenLog()
    log.insert("now", [5, 6, 7, 8, 1, 2, 5, 6, 7, 8], PROMPT)
    #                  └─ matched ─┘ └─ drafted ─┘      then looked up afresh: 5 6 7 8 goes on with 1
    assert branches(propose(log))[0][:8] == [1, 2, 5, 6, 7, 8, 1, 2]


def test_nothing_known_means_a_plain_step():
    log = log_of([1, 2, 3])
    log.insert("now", [7], OUTPUT)
    assert propose(log).token_ids.tolist() == [7]


def test_token_id_0_is_a_token_like_any_other():
    log = log_of([0, 0, 5, 0])
    log.insert("now", [0], OUTPUT)
    assert set(first_tokens(propose(log, depth=1))) == {0, 5}
    log.insert("now", [5], OUTPUT)
    assert first_tokens(propose(log))[0] == 0


def test_a_token_is_matched_as_soon_as_it_is_inserted():
    log = TokenLog()
    for token, expected in [(1, []), (2, []), (1, [2]), (3, []), (1, [3, 2]), (2, [1])]:
        log.insert("now", [token], OUTPUT)
        assert first_tokens(propose(log, depth=1)) == expected


def test_streaming_token_by_token_and_all_at_once_give_one_memory():
    tokens = [1, 2, 0, 1, 2, 0, 3, 1, 2]
    at_once, streamed = log_of(tokens), TokenLog()
    for token in tokens:
        streamed.insert("earlier", [token], OUTPUT)
    streamed.forget("earlier")
    for one, other in zip(at_once.snapshot().values(), streamed.snapshot().values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_answer_is_shared_only_once_its_request_has_ended_and_then_whole():
    log = TokenLog()
    log.insert("beside", [9, 1], PROMPT)
    log.insert("first", [1, 2], OUTPUT)
    log.insert("first", [3, 4], OUTPUT)
    assert branches(propose(log, "beside")) == []
    log.forget("first")
    assert branches(propose(log, "beside")) == [[2, 3, 4]]


def test_an_aborted_request_leaves_its_answer_so_far_and_no_prompt():
    secret = [50, 51, 52]
    log = TokenLog()
    log.insert("aborted", secret, PROMPT)
    log.insert("aborted", [1, 2, 3], OUTPUT)
    log.forget("aborted")
    log.insert("now", [1], OUTPUT)
    assert branches(propose(log)) == [[2, 3]]
    assert not np.isin(secret, log._shared.tokens).any()


def test_a_prompt_never_shows_in_another_request():
    log = TokenLog()
    log.insert("first", [50, 51, 52, 53], PROMPT)
    log.insert("first", [1, 2], OUTPUT)
    log.insert("beside", [1, 50], OUTPUT)
    assert branches(propose(log, "beside")) == []
    log.forget("first")
    log.insert("later", [50], PROMPT)
    assert branches(propose(log, "later")) == []
    log.insert("later", [1, 50, 51, 52], PROMPT)
    assert 53 not in propose(log, "later").token_ids


def test_an_answers_first_token_is_no_continuation_of_the_prompt_for_others():
    log = TokenLog()
    log.insert("first", [1, 2], PROMPT)
    log.insert("first", [3], OUTPUT)
    log.forget("first")
    log.insert("now", [1, 2], OUTPUT)
    assert branches(propose(log)) == []


def test_no_draft_leads_from_one_answer_into_the_next():
    log = log_of([1, 2], [3, 4])
    log.insert("now", [1], OUTPUT)
    assert branches(propose(log)) == [[2]]
    log.insert("now", [2], OUTPUT)
    assert branches(propose(log)) == []


# Matches, and what they say.


def same_head_as(token, heads, owner=1):
    """Another token with the same head in the chains of order 1."""
    head = heads_of([token], owner, heads)[-1]
    return next(other for other in range(token + 1, 10**6) if heads_of([other], owner, heads)[-1] == head)


def test_tokens_that_share_a_head_are_told_apart():
    twin = same_head_as(1, heads=token_log._FIRST_RING // 2)
    log = log_of([1, 7], [twin, 8], [1, 9], [twin, 8])
    log.insert("now", [1], OUTPUT)
    assert first_tokens(propose(log)) == [9, 7]
    log.insert("now", [twin], OUTPUT)
    assert first_tokens(propose(log)) == [8]


def test_how_long_ago_a_token_stood_is_forgotten_once_another_one_takes_its_head():
    ring = RingBuffer(SMALLEST_RING)
    view = ring_view.py_func(ring.cells, ring.heads, ring.end)
    twin = same_head_as(1, heads=SMALLEST_RING // 2, owner=NO_OWNER)
    ring.append(np.array([1, 2], np.int32), NO_OWNER)
    assert newest_index(view, NO_OWNER, 1) == 0
    assert newest_index(view, NO_OWNER, twin) == NO_INDEX
    ring.append(np.array([twin], np.int32), NO_OWNER)
    assert newest_index(view, NO_OWNER, twin) == 2
    assert newest_index(view, NO_OWNER, 1) == NO_INDEX
    ring.append(np.full(SMALLEST_RING, 2, np.int32), NO_OWNER)
    assert newest_index(view, NO_OWNER, twin) == NO_INDEX  # overwritten


def test_single_tokens_have_no_more_heads_than_a_vocabulary_has_tokens():
    ring = RingBuffer(4 * MAX_SINGLE_HEADS)
    assert ring.nbytes == ring_bytes(ring.capacity) == 31 * ring.capacity + 8
    view = ring_view.py_func(ring.cells, ring.heads, ring.end)
    twin = same_head_as(1, heads=MAX_SINGLE_HEADS, owner=NO_OWNER)
    ring.append(np.array([1, 2], np.int32), NO_OWNER)
    assert newest_index(view, NO_OWNER, 1) == 0
    ring.append(np.array([twin], np.int32), NO_OWNER)
    assert newest_index(view, NO_OWNER, twin) == 2
    assert newest_index(view, NO_OWNER, 1) == NO_INDEX
    assert newest_index(view, NO_OWNER, 2) == 1


def test_a_shorter_match_adds_to_a_longer_one_and_overwrites_nothing():
    run = list(range(100, 100 + LONGEST_MATCH))
    log = log_of([*run, 2, 3], *([[8, 2, 4]] * 5), *([[9, 2, 3]] * 2))
    log.insert("now", [*run, 2], OUTPUT)
    assert first_tokens(propose(log, depth=1)) == [3, 4]  # the longer match's first, though rarer


def test_a_match_speaks_with_its_whole_length_not_only_with_that_of_its_chain():
    # 5 4 3 2 1 → 10 and 6 5 4 3 2 1 → 20 lie in one chain, that of 3 2 1 and what stands before.
    log = log_of([7, 5, 4, 3, 2, 1, 20], [8, 9, 4, 3, 2, 1, 10])
    log.insert("now", [5, 4, 3, 2, 1], OUTPUT)
    assert first_tokens(propose(log, depth=1)) == [20, 10]  # five tokens agree, then the newer one's four


def test_nothing_before_the_longest_match_counts():
    run = list(range(100, 100 + LONGEST_MATCH))
    log = log_of([1, *run, 20], [2, *run, 10])
    log.insert("now", [1, *run], OUTPUT)
    assert first_tokens(propose(log, depth=1)) == [10, 20]  # equally long: the newer one first


def test_the_requests_own_match_goes_before_a_shared_one_of_equal_length():
    log = log_of([1, 2], [1, 2], [1, 2])
    log.insert("now", [1, 3, 1], PROMPT)
    assert first_tokens(propose(log, depth=1)) == [3, 2]
    run = list(range(100, 100 + LONGEST_MATCH))
    log = log_of([*run, 1, 2])
    log.insert("now", [1, 3, *run, 1], PROMPT)
    assert first_tokens(propose(log, depth=1)) == [2, 3]  # but a much longer one goes first, in any request


def test_what_was_seen_more_often_comes_first():
    log = log_of([1, 2], [1, 3], [1, 3], [1, 4])
    log.insert("now", [1], OUTPUT)
    assert first_tokens(propose(log, depth=1)) == [3, 4, 2]  # and then what was later


def test_few_matches_are_joined_by_those_of_shorter_runs_on_the_way():
    #  now: 8 7 6 1 ─ 2 ─ 3 ─┬─ 5      8 7 6 1 2 3 5 was asked
    #                        └─ 4      and 2 3 4 seen elsewhere, which no match of 8 7 6 1 leads to
    log = log_of([9, 2, 3, 4])
    log.insert("now", [8, 7, 6, 1, 2, 3, 5], PROMPT)
    log.insert("now", [8, 7, 6, 1], OUTPUT)
    assert branches(propose(log, depth=3)) == [[2, 3, 5], [2, 3, 4]]


def streamed(log, tokens):
    """The probabilities of the first drafted token before each of the tokens came."""
    for token in tokens:
        yield propose(log, depth=1).probabilities[1:].tolist()[:1]
        log.insert("now", [token], OUTPUT)


def test_the_hit_rate_of_a_kind_of_match_is_learned_from_drafts():
    # What follows 5 is the same again and again, what follows 6 another one each time.
    log = log_of([5, 7], max_bytes=2**20)  # without token weights, which learn the same
    log.insert("now", [1], OUTPUT)
    probabilities = [list(streamed(log, [5, 7, other, 6, other + 100])) for other in range(20, 80)]
    first, last = probabilities[1], probabilities[-1]
    assert last[1][0] > 0.9 > 1.5 * first[1][0]
    assert sum(last[4]) < 0.25


def test_nothing_is_learned_where_no_draft_was_proposed():
    log = log_of([5, 7])
    before = log.snapshot()
    log.insert("now", [5], OUTPUT)
    log.insert("now", [7, 5, 7], OUTPUT)
    propose(log)
    log.insert("now", [5], PROMPT)  # nor from what the user says
    log.insert("now", [7], OUTPUT)  # which the draft did not follow
    after = log.snapshot()
    np.testing.assert_array_equal(before["hit_rates"], after["hit_rates"])
    np.testing.assert_array_equal(before["weights"], after["weights"])


def test_a_draft_is_learned_from_once_and_by_its_own_request_alone():
    log = log_of([5, 7])
    log.insert("now", [5], OUTPUT)
    log.insert("beside", [5], OUTPUT)
    before = log.snapshot()["hit_rates"]
    propose(log)
    log.insert("beside", [7], OUTPUT)
    assert (log.snapshot()["hit_rates"] == before).all()
    log.insert("now", [7], OUTPUT)
    learned = log.snapshot()["hit_rates"]
    assert (learned - before).sum(axis=0).tolist() == [1, 1]
    log.insert("now", [5], OUTPUT)
    assert (log.snapshot()["hit_rates"] == learned).all()


# The draft's shape.


def forked_log():
    #  1 ─ 2 ─┬─ 3 ─ 4
    #         └─ 5 ─ 6
    log = log_of([1, 2, 5, 6], *([[1, 2, 3, 4]] * 4))
    log.insert("now", [1], OUTPUT)
    return log


@pytest.mark.parametrize(
    ("mode", "tokens", "parents"),
    [
        (DraftMode.HIERARCHICAL, [1, 2, 3, 4, 5, 6], [-1, 0, 1, 2, 1, 4]),
        (DraftMode.PARALLEL, [1, 2, 3, 4, 2, 5, 6], [-1, 0, 1, 2, 0, 4, 5]),
        (DraftMode.SINGLE, [1, 2, 3, 4], [-1, 0, 1, 2]),
    ],
)
def test_the_three_shapes_of_a_draft(mode, tokens, parents):
    draft = propose(forked_log(), mode=mode)
    assert draft.token_ids.tolist() == tokens
    assert draft.parents.tolist() == parents


@pytest.mark.parametrize("mode", DraftMode)
@pytest.mark.parametrize(("length", "depth"), [(1, 9), (2, 9), (4, 9), (9, 0), (9, 1), (9, 2), (100, 100)])
def test_budget_and_depth_are_kept_to(length, depth, mode):
    draft = propose(forked_log(), length=length, depth=depth, mode=mode)
    assert len(draft) <= length
    assert draft.depths.max() <= min(depth, 3)
    if mode is not DraftMode.SINGLE:
        assert len(draft) >= min(length, 1 + min(depth, 3))


def test_a_larger_budget_drafts_more_of_the_same():
    whole = propose(forked_log())
    paths = {tuple(whole.token_ids[whole.path_to(node)]) for node in range(len(whole))}
    expected = []
    for length in range(1, len(whole) + 1):
        draft = propose(forked_log(), length=length)
        assert {tuple(draft.token_ids[draft.path_to(node)]) for node in range(len(draft))} <= paths
        assert (np.diff(draft.probabilities) <= 0).all()
        expected.append(draft.probabilities.sum())
    assert (np.diff(expected) > 0).all()


# Growing, forgetting, limits.


def test_the_oldest_answers_are_overwritten_first():
    log = TokenLog(max_bytes=MIN_MEMORY)
    answers = [list(range(1000 * i, 1000 * i + 39)) for i in range(1, 13)]
    for i, answer in enumerate(answers):
        log.insert("earlier", answer, OUTPUT)
        log.forget("earlier")
        assert log.nbytes <= MIN_MEMORY
        #  256 cells: the last six answers of 39 tokens and a gap, and the last 15 tokens of the one before
        log.insert("now", [answer[20]], PROMPT)
        assert branches(propose(log, depth=2)) == [[answer[21], answer[22]]]
        for older, gone in [(i - 5, False), (i - 6, True)]:
            if older >= 0:
                log.insert("now", [answers[older][20]], PROMPT)
                assert branches(propose(log, depth=1)) == ([] if gone else [[answers[older][21]]])
        log.forget("now")
    tokens = log.snapshot()["tokens"].tolist()
    assert tokens == [token for answer in answers for token in [*answer, GAP]][-256:]


def test_an_answer_longer_than_the_log_leaves_its_end():
    log = TokenLog(max_bytes=MIN_MEMORY)
    log.insert("earlier", list(range(1000)), OUTPUT)
    log.forget("earlier")
    assert log.snapshot()["tokens"].tolist() == [*range(1000 - 255, 1000), GAP]


def test_growth_loses_nothing(monkeypatch):
    monkeypatch.setattr(token_log, "_FIRST_RING", SMALLEST_RING)
    answers = [list(range(100 * i, 100 * i + 50)) for i in range(1, 22)]
    log = log_of(*answers)
    assert len(log._shared.tokens) == 2048
    for answer in answers:
        log.insert("now", answer[7:8], OUTPUT)
        assert branches(propose(log, depth=3)) == [answer[8:11]]
    log.insert("long", np.arange(10_000, 13_000), PROMPT)
    log.insert("long", [10_017], OUTPUT)
    assert branches(propose(log, "long", depth=3)) == [[10_018, 10_019, 10_020]]


def test_indices_counted_anew_change_no_draft(monkeypatch):
    def drafts(max_index):
        monkeypatch.setattr(log_ring, "MAX_INDEX", max_index)
        log = TokenLog(max_bytes=130_000)
        random = np.random.default_rng(0)
        for name in range(30):
            for request, origin in [("long", OUTPUT), (name, PROMPT), (name, OUTPUT), (name, OUTPUT)]:
                log.insert(request, random.integers(0, 4, random.integers(1, 60)), origin)
                draft = propose(log, request)
                yield [draft.token_ids.tolist(), draft.parents.tolist(), draft.probabilities.tolist()]
            log.forget(name)
            assert max(log._shared.written, log._requests["long"].own.written) <= max_index

    assert list(drafts(1500)) == list(drafts(2**30))


def test_live_requests_that_fill_their_half_are_still_drafted_for():
    log = log_of([1, 2, 3], max_bytes=MIN_MEMORY)
    log.insert("large", np.arange(10, 200), PROMPT)
    log.insert("late", [20, 21, 20], PROMPT)  # finds no room for a log of its own
    assert branches(propose(log, "late")) == []
    log.insert("late", [1], OUTPUT)
    assert branches(propose(log, "late")) == [[2, 3]]  # and drafts from the shared one
    log.insert("large", [190], OUTPUT)
    assert branches(propose(log, "large", depth=3)) == [[191, 192, 193]]  # the newest of its prompt is there
    log.insert("large", [11], OUTPUT)
    assert branches(propose(log, "large", depth=3)) == []  # its oldest is not
    assert log.nbytes <= MIN_MEMORY
    log.forget("large")
    log.insert("late", [5, 6, 5], OUTPUT)
    assert first_tokens(propose(log, "late")) == [6]  # there is room again
    log.forget("late")
    assert log.snapshot()["tokens"].tolist()[-5:] == [1, 5, 6, 5, GAP]  # shared whole, room or not


def test_a_token_takes_at_most_32_bytes():
    log = TokenLog(max_bytes=2**20)
    log.insert("earlier", np.arange(100_000), OUTPUT)
    log.forget("earlier")
    ring = log._shared
    assert ring.nbytes == ring_bytes(ring.capacity)
    assert (ring.nbytes - ring.end.nbytes) / ring.capacity <= 32
    assert ring.capacity == 2**14  # half of the memory, to the last byte
    assert log.nbytes <= 2**20


def test_bytes_stay_under_their_cap_and_come_back():
    log = TokenLog(max_bytes=300_000)
    random = np.random.default_rng(1)
    for name in range(40):
        log.insert(name, random.integers(0, 50_000, 500), OUTPUT)
        assert log.nbytes <= 300_000
        log.forget(name - 4)
    full = log.nbytes
    assert full > 150_000
    for name in range(36, 40):
        log.forget(name)
    assert log.nbytes < full


def test_a_snapshot_is_a_copy_of_what_outlives_requests():
    log = log_of([1, 2, 3], [4])
    log.insert("now", [77, 78], PROMPT)
    snapshot = log.snapshot()
    assert snapshot["tokens"].tolist() == [1, 2, 3, GAP, 4, GAP]
    assert snapshot["hit_rates"].shape == initial_hit_rates().shape
    for array in snapshot.values():
        array[...] = 0
    log.insert("now", [1], OUTPUT)
    assert branches(propose(log)) == [[2, 3]]
    assert (log.snapshot()["hit_rates"] > 0).all()


# Errors.


@pytest.mark.parametrize("request_id", ["never", "forgotten", "empty"])
def test_an_unknown_request_is_a_key_error(request_id):
    log = TokenLog()
    log.insert("forgotten", [1], PROMPT)
    log.forget("forgotten")
    log.insert("empty", [], PROMPT)
    with pytest.raises(KeyError):
        propose(log, request_id)


def test_forgetting_an_unknown_request_does_nothing():
    log = log_of([1, 2])
    log.forget("never")
    assert log.snapshot()["tokens"].tolist() == [1, 2, GAP]


def test_a_request_without_an_answer_leaves_nothing():
    log = TokenLog()
    log.insert("now", [1, 2], PROMPT)
    log.forget("now")
    assert len(log.snapshot()["tokens"]) == 0


@pytest.mark.parametrize(
    "tokens", [[1, -1], [1, 2**31], [1, 2**70], [1.0, 2.5], [[1, 2], [3, 4]], ["1"], [None], 5, [True]]
)
def test_what_is_no_sequence_of_token_ids_is_refused_and_nothing_inserted(tokens):
    log = TokenLog()
    with pytest.raises(ValueError, match="token ids must be"):
        log.insert("now", tokens, PROMPT)
    with pytest.raises(KeyError):
        propose(log)


def test_a_gap_cannot_be_inserted_as_a_token():
    with pytest.raises(ValueError, match="got -1 to 1"):
        TokenLog().insert("now", [1, GAP], OUTPUT)


def test_an_unknown_origin_is_refused_and_nothing_inserted():
    log = TokenLog()
    with pytest.raises(ValueError, match="is not a valid Origin"):
        log.insert("now", [1], "rumour")
    with pytest.raises(KeyError):
        propose(log)


def test_the_callers_array_is_not_kept():
    tokens = np.array([1, 2, 3], np.int32)
    log = TokenLog()
    log.insert("earlier", tokens, OUTPUT)
    tokens[...] = 9
    log.forget("earlier")
    assert log.snapshot()["tokens"].tolist() == [1, 2, 3, GAP]


@pytest.mark.parametrize("kind", [np.int64, np.uint16, np.int32])
def test_any_integers_are_token_ids(kind):
    log = TokenLog()
    log.insert("now", np.array([1, 2, 1], kind), PROMPT)
    assert branches(propose(log, depth=1)) == [[2]]


def test_the_largest_token_id_is_allowed():
    log = log_of([1, 2**31 - 1, 5])
    log.insert("now", [1], OUTPUT)
    assert branches(propose(log)) == [[2**31 - 1, 5]]


@pytest.mark.parametrize("length", [0, -3])
def test_a_draft_without_room_for_node_0_is_refused(length):
    log = TokenLog()
    log.insert("now", [1], OUTPUT)
    with pytest.raises(ValueError, match="give 1 or more"):
        propose(log, length=length)


@pytest.mark.parametrize("max_bytes", [0, -1, 2000, MIN_MEMORY - 1])
def test_a_cap_that_leaves_no_memory_is_refused(max_bytes):
    message = f"max_bytes={max_bytes} leaves no room for a log; give at least {MIN_MEMORY}"
    with pytest.raises(ConfigError, match=message):
        TokenLog(max_bytes=max_bytes)


def test_the_min_cap_lets_a_request_have_a_log_of_its_own():
    log = TokenLog(max_bytes=MIN_MEMORY)
    log.insert("now", [1, 2, 1], PROMPT)
    assert first_tokens(propose(log)) == [2]


def test_threads_may_share_a_memory():
    log = TokenLog(max_bytes=300_000)

    def live(name):
        random = np.random.default_rng(name)
        for _ in range(5):
            log.insert(name, random.integers(0, 9, 20), PROMPT)
            for _ in range(20):
                log.insert(name, random.integers(0, 9, 3), OUTPUT)
                assert len(propose(log, name, length=8)) <= 8
            log.forget(name)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(live, range(4)))
    assert log._requests == {}
    gaps = np.flatnonzero(log.snapshot()["tokens"] == GAP)
    assert gaps.tolist() == list(range(60, 20 * 61, 61))  # 20 answers of 60 tokens, each whole
