"""TokenTrie's kernels against the naive trie, over random lives of a memory."""

from itertools import product

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from helpers.samples import examples, sampled
from lookahead.config import DraftMode
from lookahead.drafting.store import Origin
from lookahead.drafting.trie import token_trie
from lookahead.drafting.trie.nodes import CLOCK, pool_bytes
from lookahead.drafting.trie.pruning import LATEST_CLOCK
from lookahead.drafting.trie.token_trie import TokenTrie
from oracles.naive_trie import NaiveTrie
from oracles.pool_invariants import check_pool

SHAPES = ((1, 4), (2, 1), (5, 3), (12, 5), (40, 9))
"""(decoding length, branch length) asked for, one after the other."""
OUTPUT_TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=9)
PROMPT_TOKENS = st.lists(st.integers(0, 5), min_size=1, max_size=9)  # 4 and 5 are never output
REQUESTS = st.sampled_from("abc")


def assert_same_draft(trie, naive, request, decoding_length, branch_length, mode):
    shape = {"decoding_length": decoding_length, "branch_length": branch_length, "mode": mode}
    draft, expected = trie.propose(request, **shape), naive.propose(request, **shape)
    assert len(draft) <= decoding_length
    np.testing.assert_array_equal(draft.token_ids, expected.token_ids)
    np.testing.assert_array_equal(draft.parents, expected.parents)
    np.testing.assert_array_equal(draft.depths, expected.depths)
    np.testing.assert_allclose(draft.probabilities, expected.probabilities, rtol=0, atol=1e-12)
    return draft


class LifeOfAMemory(RuleBasedStateMachine):
    """Requests come, stream their tokens, end or are aborted; after each step all drafts are compared."""

    @initialize(
        context_length=st.integers(1, 4),
        spare_nodes=st.integers(0, 70),
        stop_words=st.frozensets(st.integers(0, 3), max_size=2),
    )
    def begin(self, context_length, spare_nodes, stop_words):
        max_nodes = 4 * (context_length + 1) + spare_nodes
        fixed = token_trie.initial_hit_rates().nbytes + 4 * len(stop_words)
        self.max_bytes = fixed + pool_bytes(max_nodes)
        self.trie = TokenTrie(context_length=context_length, max_bytes=self.max_bytes, stop_words=stop_words)
        assert self.trie.max_nodes >= max_nodes
        self.naive = NaiveTrie(
            context_length=context_length, max_nodes=self.trie.max_nodes, stop_words=stop_words
        )
        self.prompts = {}
        self.outputs = set()
        self.steps = 0

    @rule(request=REQUESTS, tokens=PROMPT_TOKENS)
    def prompt(self, request, tokens):
        self.prompts.setdefault(request, set()).update(tokens)
        self.insert(request, tokens, Origin.PROMPT)

    @rule(request=REQUESTS, tokens=OUTPUT_TOKENS)
    def output(self, request, tokens):
        self.outputs.update(tokens)
        self.insert(request, tokens, Origin.OUTPUT)

    @rule(request=REQUESTS, tokens=OUTPUT_TOKENS, times=st.integers(2, 6))
    def repeated_output(self, request, tokens, times):
        self.outputs.update(tokens)
        self.insert(request, tokens * times, Origin.OUTPUT)

    @precondition(lambda self: self.naive.requests)
    @rule(data=st.data())
    def end(self, data):
        request = data.draw(st.sampled_from(sorted(self.naive.requests)))
        self.trie.forget(request)
        self.naive.forget(request)
        self.prompts.pop(request, None)
        self.compare()

    @rule()
    def time_passes(self):
        self.trie._pool.meta[CLOCK] = self.naive.clock = LATEST_CLOCK

    def insert(self, request, tokens, origin):
        self.trie.insert(request, tokens, origin)
        self.naive.insert(request, tokens, origin)
        self.compare()

    def compare(self):
        self.steps += 1
        assert self.trie.node_count == self.naive.node_count <= self.trie.max_nodes
        assert self.trie.nbytes <= self.max_bytes
        check_pool(self.trie, counts_are_exact=not self.naive.disturbed)
        for request in self.naive.requests:
            may_show = self.outputs | self.prompts.get(request, set())
            for mode in DraftMode:
                shape = SHAPES[self.steps % len(SHAPES)]
                draft = assert_same_draft(self.trie, self.naive, request, *shape, mode)
                assert set(draft.token_ids[1:]) <= may_show, "another request's prompt shows"

    def teardown(self):
        if not hasattr(self, "trie"):
            return
        for request in list(self.naive.requests):
            self.trie.forget(request)
            self.naive.forget(request)
        assert self.trie.node_count == 1 + len(self.naive.shared)
        check_pool(self.trie, counts_are_exact=False)


@pytest.fixture(autouse=True, scope="module")
def _pools_that_grow():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_trie, "_SMALLEST_POOL", 24)
        yield


TestLifeOfAMemory = LifeOfAMemory.TestCase
TestLifeOfAMemory.pytestmark = [pytest.mark.matrix]
TestLifeOfAMemory.settings = settings(max_examples=examples(150, share=3), stateful_step_count=25)


def noise(random, alphabet):
    return random.integers(0, alphabet, 120).tolist()


def fan(random, alphabet):
    """Every third token is anything, and the two before it almost nothing: they are followed by very many."""
    rows = [random.integers(0, 2, 100), random.integers(0, 2, 100), random.integers(0, alphabet, 100)]
    return np.stack(rows, axis=1).ravel().tolist()


SEQUENCES = [(noise, 2), (noise, 12), (fan, 300)]
SIZES = [900, 4000, 30_000]


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("sequence", "max_nodes"), sampled(product(SEQUENCES, SIZES), zip(SEQUENCES, SIZES, strict=True))
)
def test_long_sequences_with_wide_and_deep_drafts_equal_the_naive_trie(sequence, max_nodes):
    """The sample has each sequence and each size."""
    sequence, alphabet = sequence
    random = np.random.default_rng(alphabet)
    trie = TokenTrie(context_length=7, max_nodes=max_nodes)
    naive = NaiveTrie(context_length=7, max_nodes=max_nodes)
    for name in range(8):
        for origin in (Origin.PROMPT, Origin.OUTPUT):
            tokens = sequence(random, alphabet)
            trie.insert(name, tokens, origin)
            naive.insert(name, tokens, origin)
            assert trie.node_count == naive.node_count
            for mode in DraftMode:
                assert_same_draft(trie, naive, name, 150, 12, mode)
        check_pool(trie, counts_are_exact=not naive.disturbed)
        if name != 1:
            trie.forget(name)
            naive.forget(name)
