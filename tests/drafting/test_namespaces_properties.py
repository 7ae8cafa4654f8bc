"""No token crosses from one namespace to another, but by `reads`; nor does one show in another's drafts."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from helpers.drafts import MIN_MEMORY
from lookahead.config import DraftMode
from lookahead.drafting.log import token_log
from lookahead.drafting.log.matches import NO_OWNER
from lookahead.drafting.log.ring import GAP, SMALLEST_RING
from lookahead.drafting.log.successors import SMALLEST_TABLE
from lookahead.drafting.log.token_log import TokenLog
from lookahead.drafting.store import Origin
from oracles.naive_log import heads_of

ALPHABETS = {"one": range(40), "two": range(100, 140), "three": range(200, 240)}


def tokens_that_share_a_head(count):
    """Tokens in one chain, whichever of three owners has them, in rings of up to 256."""
    shared = (
        token
        for token in range(1000, 10**6)
        if len({heads_of([token], owner, 128)[-1] for owner in (1, 2, 3)}) == 1
    )
    return list(islice(shared, count))


COMMON = tokens_that_share_a_head(2)
"""Letters 0 and 1 of all: what followed them must not cross either."""
NAMESPACES = st.sampled_from(sorted(ALPHABETS))
LETTERS = st.lists(st.integers(0, 5), min_size=1, max_size=30)
SPREAD = st.lists(st.integers(0, 39), min_size=1, max_size=40)
BIAS_TO_OUTPUT = st.sampled_from([Origin.PROMPT, Origin.OUTPUT, Origin.OUTPUT])


def in_alphabet(namespace, letters):
    return [COMMON[letter] if letter < len(COMMON) else ALPHABETS[namespace][letter] for letter in letters]


class LifeOfTenants(RuleBasedStateMachine):
    """Each namespace has an alphabet of its own, so that a token tells whose it is."""

    @initialize(memory=st.sampled_from([MIN_MEMORY, 2 * MIN_MEMORY, 4 * MIN_MEMORY]), prompts=st.booleans())
    def begin(self, memory, prompts):
        self.log = TokenLog(max_bytes=memory, remember_prompts=prompts)
        self.requests = {}  # name: its namespace, and the tokens that it may draft
        self.names = iter(range(10**6))

    @rule(namespace=NAMESPACES, reads=st.lists(NAMESPACES, max_size=2), letters=LETTERS)
    def open(self, namespace, reads, letters):
        name = next(self.names)
        if len(self.requests) == 4:
            self.end(min(self.requests))
        self.log.open(name, namespace=namespace, reads=reads)
        allowed = {*COMMON, *(token for readable in [namespace, *reads] for token in ALPHABETS[readable])}
        self.requests[name] = namespace, allowed
        self.log.insert(name, in_alphabet(namespace, letters), Origin.PROMPT)

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), letters=LETTERS, times=st.integers(1, 8), origin=BIAS_TO_OUTPUT)
    def insert(self, data, letters, times, origin):
        name = data.draw(st.sampled_from(sorted(self.requests)))
        self.log.insert(name, in_alphabet(self.requests[name][0], letters) * times, origin)

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), letters=SPREAD, successors=SPREAD)
    def recycle(self, data, letters, successors):
        name = data.draw(st.sampled_from(sorted(self.requests)))
        tokens, likely = (in_alphabet(self.requests[name][0], row) for row in (letters, successors))
        self.log.recycle(name, tokens, [likely[:8]] * len(tokens))

    @rule(namespace=NAMESPACES, letters=LETTERS)
    def remember(self, namespace, letters):
        self.log.remember(in_alphabet(namespace, letters), namespace)

    @rule(namespace=NAMESPACES)
    def forget_namespace(self, namespace):
        self.log.forget_namespace(namespace)
        assert self.log.tokens_by_namespace().get(namespace, 0) == 0
        assert not np.isin(self.log._shared.tokens, ALPHABETS[namespace]).any()
        assert not np.isin(self.log._table.successors, ALPHABETS[namespace]).any()

    @invariant()
    def names_are_of_what_is_held(self):
        if hasattr(self, "log"):
            log = self.log
            used = {owner for live in log._requests.values() for owner in live.readable.tolist()}
            used.update(log._shared.owners[log._shared.tokens != GAP].tolist())
            used.update((log._table.keys[log._table.keys >= 0] >> 31).tolist())
            assert used - {NO_OWNER} == {known.owner for known in log._namespaces}
            assert log.nbytes <= log.max_bytes

    @rule(is_other=st.booleans())
    def absorb(self, is_other):
        other = TokenLog(max_bytes=2 * MIN_MEMORY)
        for namespace in reversed(ALPHABETS) if is_other else ():  # known by other numbers there
            other.remember(in_alphabet(namespace, [0, 1, 2, 0, 3]), namespace)
        self.log.absorb((other if is_other else self.log).snapshot(), calibration=False)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def end_one(self, data):
        self.end(data.draw(st.sampled_from(sorted(self.requests))))

    def end(self, name):
        self.log.forget(name)
        del self.requests[name]

    @rule(mode=st.sampled_from(DraftMode), length=st.sampled_from([3, 16, 64]))
    def propose(self, mode, length):
        for name, (_, allowed) in self.requests.items():
            draft = self.log.propose(name, decoding_length=length, branch_length=30, mode=mode)
            assert set(draft.token_ids.tolist()) <= allowed


TestLifeOfTenants = LifeOfTenants.TestCase
TestLifeOfTenants.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


@pytest.fixture(autouse=True, scope="module")
def _memories_that_grow():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_log, "_FIRST_RING", SMALLEST_RING)
        patch.setattr(token_log, "_FIRST_TABLE", SMALLEST_TABLE)
        yield


TEXTS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=25), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(TEXTS, TEXTS, st.data())
def test_a_namespace_drafts_the_same_whether_or_not_another_one_lives_beside_it(texts, others, data):
    # Both speak the same tokens. The others never propose: what is learned of the sources belongs to all.
    # There is room for all, and enough heads that no chain is walked to its bound.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_log, "_FIRST_RING", 2**14)
        alone, beside = TokenLog(max_bytes=2**23), TokenLog(max_bytes=2**23)
    when = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=len(others), max_size=len(others)))
    is_live = data.draw(st.booleans())
    for number, text in enumerate(texts):
        for other in [other for other, at in zip(others, when, strict=True) if at == number]:
            live_beside(beside, other, is_live=is_live)
        drafts = [list(drafts_of(log, number, text)) for log in (alone, beside)]
        assert drafts[0] == drafts[1]


def live_beside(log, tokens, *, is_live):
    log.open("other", namespace="other", reads=["mine"])
    log.insert("other", tokens, Origin.PROMPT)
    log.insert("other", tokens[::-1], Origin.OUTPUT)
    log.recycle("other", tokens, [tokens[-8:]] * len(tokens))
    log.remember(tokens * 3, "other")
    if not is_live:
        log.forget("other")


def drafts_of(log, name, text):
    log.open(name, namespace="mine", reads=["unused"])
    log.insert(name, text[:1], Origin.PROMPT)
    log.recycle(name, text[::2], [[token + 1, token] for token in text[::2]])
    for token in text:
        log.insert(name, [token], Origin.OUTPUT)
        draft = log.propose(name, decoding_length=12, branch_length=8, mode=DraftMode.HIERARCHICAL)
        yield draft.token_ids.tolist(), draft.parents.tolist(), draft.probabilities.tolist()
    log.forget(name)
