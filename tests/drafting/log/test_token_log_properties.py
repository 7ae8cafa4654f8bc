"""TokenLog's kernels against the naive log, over random lives of a memory."""

from itertools import product

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from helpers.drafts import MIN_MEMORY
from helpers.noise import coming_noise
from helpers.samples import examples, sampled
from lookahead.config import DraftMode
from lookahead.drafting.log import ring as log_ring
from lookahead.drafting.log import token_log
from lookahead.drafting.log.ring import GAP, SMALLEST_RING
from lookahead.drafting.log.successors import NO_TOKEN, SMALLEST_TABLE
from lookahead.drafting.log.token_log import TokenLog
from lookahead.drafting.noise import NO_NOISE
from lookahead.drafting.store import DEFAULT_NAMESPACE, Origin
from oracles.naive_log import NaiveLog

SHAPES = ((1, 4), (2, 1), (5, 3), (12, 5), (40, 30))
"""(decoding length, branch length)."""
TOKENS = st.lists(st.integers(0, 4), min_size=1, max_size=9)
REQUESTS = st.sampled_from("abc")
NAMESPACES = st.sampled_from([DEFAULT_NAMESPACE, "tenant", "other"])
READS = st.lists(st.sampled_from([DEFAULT_NAMESPACE, "tenant", "other", "unknown"]), max_size=3)
SEEDS = st.none() | st.integers(0, 3)
VOCABULARY = 40
MAX_INDEX = log_ring.MAX_INDEX


def assert_same_draft(log, naive, request, decoding_length, branch_length, mode, seed=None):
    """With a seed, the noise of the coming draws is known."""
    shape = {"decoding_length": decoding_length, "branch_length": branch_length, "mode": mode}
    noise, levels = (NO_NOISE, ()) if seed is None else coming_noise(seed, VOCABULARY)
    draft = log.propose(request, **shape, noise=noise)
    expected = naive.propose(request, **shape, noise=levels)
    assert len(draft) <= decoding_length
    np.testing.assert_array_equal(draft.token_ids, expected.token_ids)
    np.testing.assert_array_equal(draft.parents, expected.parents)
    np.testing.assert_array_equal(draft.depths, expected.depths)
    np.testing.assert_allclose(draft.probabilities, expected.probabilities, rtol=0, atol=1e-9)


def assert_same_memory(log, naive):
    snapshot = log.snapshot()
    assert dict(zip(snapshot["names"], snapshot["owners_named"], strict=True)) == naive.owners
    held = naive.shared.cells
    assert snapshot["tokens"].tolist() == [cell.token for cell in held]
    assert snapshot["owners"].tolist() == [cell.owner for cell in held]
    pairs = [(int(key) >> 31, int(key) & (2**31 - 1)) for key in snapshot["keys"]]
    rows = [[token for token in row.tolist() if token != NO_TOKEN] for row in snapshot["successors"]]
    assert list(zip(pairs, rows, strict=True)) == list(naive.successors.entries.items())
    calibration = naive.default_calibration()
    np.testing.assert_allclose(snapshot["hit_rates"], np.reshape(calibration.hit_rates, (-1, 2)), rtol=1e-12)
    pairs = [
        calibration.none_bias,
        calibration.none_slope,
        *calibration.slopes,
        *np.reshape(calibration.biases, (-1, 2)),
        *(pair for hint in calibration.hint_biases for pair in np.reshape(hint, (-1, 2))),
        *calibration.luck_slopes,
    ]
    np.testing.assert_allclose(snapshot["weights"], np.transpose(pairs), rtol=0, atol=1e-9)


class LifeOfALog(RuleBasedStateMachine):
    """Requests come, stream their tokens, propose now and then, end or are aborted."""

    memories = st.sampled_from([2**20, 2**21, 2**26])  # room for the weights of 1, 2, 16 namespaces
    max_indices = st.just(MAX_INDEX)
    max_times = 6
    successor_tokens = st.integers(0, 6)

    @initialize(data=st.data(), remember_prompts=st.booleans(), known=st.lists(NAMESPACES, unique=True))
    def begin(self, data, remember_prompts, known):
        settings = {"max_bytes": data.draw(self.memories), "remember_prompts": remember_prompts}
        self.max_bytes = settings["max_bytes"]
        log_ring.MAX_INDEX = data.draw(self.max_indices)
        self.log, self.naive = TokenLog(**settings), NaiveLog(**settings)
        for namespace in known:
            self.do("remember", [0, 1, 0], namespace)

    def do(self, name, *arguments, **named):
        getattr(self.log, name)(*arguments, **named)
        getattr(self.naive, name)(*arguments, **named)
        assert self.log.nbytes <= self.max_bytes

    @rule(request=REQUESTS, namespace=NAMESPACES, reads=READS)
    def open(self, request, namespace, reads):
        if request in self.naive.requests:
            self.do("forget", request)
        self.do("open", request, namespace=namespace, reads=reads)

    @rule(
        request=REQUESTS,
        tokens=TOKENS,
        data=st.data(),
        origin=st.sampled_from([Origin.PROMPT, Origin.OUTPUT, Origin.OUTPUT]),
        is_compared=st.booleans(),
    )
    def insert(self, request, tokens, data, origin, is_compared):
        repeated = tokens * data.draw(st.integers(1, self.max_times))
        self.do("insert", request, repeated, origin)
        if is_compared:
            modes = data.draw(st.permutations(list(DraftMode)))
            self.compare(data.draw(st.sampled_from(SHAPES)), modes, data.draw(SEEDS))

    @precondition(lambda self: self.naive.requests)
    @rule(data=st.data())
    def recycle(self, data):
        request = data.draw(st.sampled_from(sorted(self.naive.requests)))
        tokens = data.draw(st.lists(self.successor_tokens, min_size=1, max_size=20))
        width = data.draw(st.integers(1, 10))
        row = st.lists(st.integers(0, 12), min_size=width, max_size=width, unique=True)
        rows = data.draw(st.lists(row, min_size=len(tokens), max_size=len(tokens)))
        accepted = data.draw(st.integers(0, len(tokens))) if self.naive.requests[request].sequence else 0
        self.do("recycle", request, tokens, rows, accepted=accepted)

    @rule(rows=st.lists(st.permutations(range(7)), min_size=1, max_size=6))
    def learn_vocabulary(self, rows):
        self.do("learn_vocabulary", rows)

    @rule(tokens=TOKENS, namespace=NAMESPACES)
    def remember(self, tokens, namespace):
        self.do("remember", tokens, namespace)

    @rule(namespace=NAMESPACES)
    def forget_namespace(self, namespace):
        self.do("forget_namespace", namespace)

    @precondition(lambda self: self.naive.requests)
    @rule(data=st.data())
    def end(self, data):
        self.do("forget", data.draw(st.sampled_from(sorted(self.naive.requests))))

    @rule(shape=st.sampled_from(SHAPES), modes=st.permutations(list(DraftMode)), seed=SEEDS)
    def compare(self, shape, modes, seed):
        for name, request in self.naive.requests.items():
            for mode in modes if request.sequence else ():
                assert_same_draft(self.log, self.naive, name, *shape, mode, seed)

    def teardown(self):
        if hasattr(self, "log"):
            assert_same_memory(self.log, self.naive)


class LifeOfATinyLog(LifeOfALog):
    """The rings wrap around, live requests fill their part, the table forgets: all that is modelled, too."""

    memories = st.sampled_from([MIN_MEMORY, MIN_MEMORY + 9000, 2 * MIN_MEMORY, 3 * MIN_MEMORY])
    max_indices = st.sampled_from([MAX_INDEX, 300])
    max_times = 30
    successor_tokens = st.integers(0, 60)


@pytest.fixture(autouse=True, scope="module")
def _rings_that_grow():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_log, "_FIRST_RING", SMALLEST_RING)
        patch.setattr(token_log, "_FIRST_TABLE", SMALLEST_TABLE)
        patch.setattr(log_ring, "MAX_INDEX", MAX_INDEX)  # each life draws its own
        yield


TestLifeOfALog = LifeOfALog.TestCase
TestLifeOfALog.pytestmark = [pytest.mark.matrix]
TestLifeOfALog.settings = settings(max_examples=examples(100, share=2), stateful_step_count=25, deadline=None)
TestLifeOfATinyLog = LifeOfATinyLog.TestCase
TestLifeOfATinyLog.pytestmark = [pytest.mark.matrix]
TestLifeOfATinyLog.settings = settings(
    max_examples=examples(100, share=2), stateful_step_count=25, deadline=None
)


def noise(random, alphabet):
    return random.integers(0, alphabet, 60).tolist()


def fan(random, alphabet):
    """Every third token is anything, and the two before it almost nothing: they are followed by very many."""
    rows = [random.integers(0, 2, 20), random.integers(0, 2, 20), random.integers(0, alphabet, 20)]
    return np.stack(rows, axis=1).ravel().tolist()


SEQUENCES = [(noise, 2), (noise, 12), (fan, 300)]
SIZES = [2 * MIN_MEMORY, 2**20, 2**26]  # the last one has token weights


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("sequence", "max_bytes"),
    sampled(product(SEQUENCES, SIZES), zip(SEQUENCES, SIZES, strict=True)),
)
def test_long_sequences_with_wide_and_deep_drafts_equal_the_naive_log(sequence, max_bytes):
    """The sample has each sequence and each size."""
    sequence, alphabet = sequence
    random = np.random.default_rng(alphabet)
    log, naive = TokenLog(max_bytes=max_bytes), NaiveLog(max_bytes=max_bytes)
    for name in range(8):
        for memory in (log, naive):
            memory.open(name, namespace=f"tenant {name % 2}", reads=["tenant 0"])
        for origin in (Origin.PROMPT, Origin.OUTPUT, Origin.OUTPUT):
            tokens = sequence(random, alphabet)
            successors = random.permuted(np.tile(np.arange(alphabet), (60, 1)), axis=1)[:, :9].tolist()
            for memory in (log, naive):
                memory.insert(name, tokens, origin)
                memory.recycle(name, tokens, successors, accepted=len(tokens) // 2)
            for mode in DraftMode:
                assert_same_draft(log, naive, name, 150, 24, mode)
        if name != 1:
            log.forget(name)
            naive.forget(name)
    assert_same_memory(log, naive)
    assert log.nbytes <= max_bytes
    assert GAP in log.snapshot()["tokens"]


@pytest.mark.parametrize("max_bytes", [2 * MIN_MEMORY, 2**26])
def test_a_song_that_is_streamed_and_learned_equals_the_naive_log(max_bytes):
    # Trust grows until weaker sources are asked no more, and what was seen long ago comes again.
    random = np.random.default_rng(0)
    log, naive = TokenLog(max_bytes=max_bytes), NaiveLog(max_bytes=max_bytes)
    verses = [random.integers(0, 60, 45).tolist() for _ in range(4)]
    for step in range(150):
        begin = step * 5 % 45
        tokens = [*verses[step // 50 if step < 140 else 3][begin : begin + 5]]
        tokens[2] = tokens[2] if step % 10 else 70 + step % 7
        for memory in (log, naive):
            memory.insert("song", tokens, Origin.OUTPUT)
            memory.recycle("song", tokens, [[token + 1, token + 2, 5] for token in tokens], accepted=5)
        assert_same_draft(log, naive, "song", 24, 12, DraftMode.HIERARCHICAL)
    assert_same_memory(log, naive)
