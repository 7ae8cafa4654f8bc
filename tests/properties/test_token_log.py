"""TokenLog's kernels against the naive log, over random lives of a memory."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from lookahead.config import DraftMode
from lookahead.drafting import token_log
from lookahead.drafting.log_ring import GAP, SMALLEST_RING, ring_bytes
from lookahead.drafting.store import Origin
from lookahead.drafting.token_log import TokenLog
from oracles.naive_log import NaiveLog

SHAPES = ((1, 4), (2, 1), (5, 3), (12, 5), (40, 20))
"""(decoding length, branch length) asked for, one after the other."""
OUTPUT_TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=9)
PROMPT_TOKENS = st.lists(st.integers(0, 5), min_size=1, max_size=9)  # 4 and 5 are never anybody's output
REQUESTS = st.sampled_from("abc")
LATEST_PLACE = token_log._LATEST_PLACE
LEAST_MEMORY = token_log.initial_log_trust().nbytes + 4 * ring_bytes(SMALLEST_RING)


def assert_same_draft(log, naive, request, decoding_length, branch_length, mode):
    shape = {"decoding_length": decoding_length, "branch_length": branch_length, "mode": mode}
    draft, expected = log.propose(request, **shape), naive.propose(request, **shape)
    assert len(draft) <= decoding_length
    np.testing.assert_array_equal(draft.token_ids, expected.token_ids)
    np.testing.assert_array_equal(draft.parents, expected.parents)
    np.testing.assert_array_equal(draft.depths, expected.depths)
    np.testing.assert_allclose(draft.probabilities, expected.probabilities, rtol=0, atol=1e-12)
    return draft


class LifeOfALog(RuleBasedStateMachine):
    """Requests come, stream their tokens, end or are aborted; after each step all drafts are compared."""

    memories = st.just(2**20)
    latest_places = st.just(LATEST_PLACE)
    most_times = 6

    @initialize(data=st.data())
    def begin(self, data):
        self.memory_bytes = data.draw(self.memories)
        token_log._LATEST_PLACE = data.draw(self.latest_places)
        self.log = TokenLog(memory_bytes=self.memory_bytes)
        self.naive = NaiveLog(memory_bytes=self.memory_bytes, first_ring=token_log._FIRST_RING)
        self.sequences = {}
        self.answers = {}
        self.shared = []  # all that ever ended, with a gap after each
        self.steps = 0

    @rule(request=REQUESTS, tokens=PROMPT_TOKENS)
    def prompt(self, request, tokens):
        self.insert(request, tokens, Origin.PROMPT)

    @rule(request=REQUESTS, tokens=OUTPUT_TOKENS)
    def output(self, request, tokens):
        self.insert(request, tokens, Origin.OUTPUT)

    @rule(request=REQUESTS, tokens=OUTPUT_TOKENS, data=st.data())
    def repeated_output(self, request, tokens, data):
        self.insert(request, tokens * data.draw(st.integers(2, self.most_times)), Origin.OUTPUT)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def end(self, data):
        self.forget(data.draw(st.sampled_from(sorted(self.sequences))))
        self.compare()

    def insert(self, request, tokens, origin):
        self.log.insert(request, tokens, origin)
        self.naive.insert(request, tokens, origin)
        self.sequences.setdefault(request, []).extend(tokens)
        self.answers.setdefault(request, []).extend(tokens if origin is Origin.OUTPUT else [])
        self.compare()

    def forget(self, request):
        self.log.forget(request)
        self.naive.forget(request)
        del self.sequences[request]
        answer = self.answers.pop(request)
        self.shared += [*answer, GAP] if answer else []

    def compare(self):
        self.steps += 1
        assert self.log.nbytes <= self.memory_bytes
        neighbours = {pair for pair in pairwise(self.shared) if GAP not in pair}
        for request, sequence in self.sequences.items():
            may_stand = neighbours | set(pairwise(sequence))
            for mode in DraftMode:
                shape = SHAPES[self.steps % len(SHAPES)]
                draft = assert_same_draft(self.log, self.naive, request, *shape, mode)
                above = draft.token_ids[draft.parents[1:]].tolist()
                drafted = set(zip(above, draft.token_ids[1:].tolist(), strict=True))
                assert drafted <= may_stand, "across a gap, or somebody else's prompt"

    def teardown(self):
        if not hasattr(self, "log"):
            return
        for request in list(self.sequences):
            self.forget(request)
        kept = self.log.snapshot()["tokens"].tolist()
        assert kept == self.naive.shared.tokens == self.shared[-self.log._most_shared :]


class LifeOfATinyLog(LifeOfALog):
    """The shared ring wraps around, and the rings of live requests fill their half, which is modelled too."""

    memories = st.sampled_from(
        [LEAST_MEMORY, LEAST_MEMORY + 2 * ring_bytes(SMALLEST_RING), 2 * LEAST_MEMORY, 4 * LEAST_MEMORY]
    )
    latest_places = st.sampled_from([LATEST_PLACE, 100])
    most_times = 30


@pytest.fixture(autouse=True, scope="module")
def _rings_that_grow():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_log, "_FIRST_RING", SMALLEST_RING)
        patch.setattr(token_log, "_LATEST_PLACE", LATEST_PLACE)  # each life draws its own
        yield


TestLifeOfALog = LifeOfALog.TestCase
TestLifeOfALog.settings = settings(max_examples=100, stateful_step_count=25)
TestLifeOfATinyLog = LifeOfATinyLog.TestCase
TestLifeOfATinyLog.settings = settings(max_examples=100, stateful_step_count=25)


def noise(random, alphabet):
    return random.integers(0, alphabet, 60).tolist()


def fan(random, alphabet):
    """Every third token is anything, and the two before it almost nothing: they are followed by very many."""
    rows = [random.integers(0, 2, 20), random.integers(0, 2, 20), random.integers(0, alphabet, 20)]
    return np.stack(rows, axis=1).ravel().tolist()


@pytest.mark.parametrize("memory_bytes", [2 * LEAST_MEMORY, 2**20])
@pytest.mark.parametrize(("sequence", "alphabet"), [(noise, 2), (noise, 12), (fan, 300)])
def test_long_sequences_with_wide_and_deep_drafts_equal_the_naive_log(sequence, alphabet, memory_bytes):
    random = np.random.default_rng(alphabet)
    log = TokenLog(memory_bytes=memory_bytes)
    naive = NaiveLog(memory_bytes=memory_bytes, first_ring=SMALLEST_RING)
    for name in range(8):
        for origin in (Origin.PROMPT, Origin.OUTPUT):
            tokens = sequence(random, alphabet)
            log.insert(name, tokens, origin)
            naive.insert(name, tokens, origin)
            for mode in DraftMode:
                assert_same_draft(log, naive, name, 150, 24, mode)
        if name != 1:
            log.forget(name)
            naive.forget(name)
