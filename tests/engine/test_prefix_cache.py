"""The prefix cache against a list of beginnings: found is what was kept, for its namespace alone."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lookahead.engine.prefix_cache import BLOCK_TOKENS, PrefixCache
from oracles.naive_prefixes import NaivePrefixes

NAMESPACES = st.sampled_from(["a", "b"])
TEXTS = st.builds(
    lambda blocks, rest: [token for token in blocks for _ in range(BLOCK_TOKENS)] + [3] * rest,
    st.lists(st.sampled_from([1, 2]), max_size=4),
    st.sampled_from([0, 0, 1, BLOCK_TOKENS - 1]),
)
"""Few texts that begin alike, with whole blocks and without."""


def block(namespace, tokens, begin):
    """What stands for keys and values in these tests: all that they depend on."""
    return (namespace, tuple(tokens[: begin + BLOCK_TOKENS]))


class LifeOfAPrefixCache(RuleBasedStateMachine):
    """A block is the very beginning that it was kept for, so a foreign one would show."""

    def __init__(self):
        super().__init__()
        self.cache, self.naive = PrefixCache(), NaivePrefixes(BLOCK_TOKENS)
        self.queries = self.hits = 0

    @rule(namespace=NAMESPACES, tokens=TEXTS)
    def add(self, namespace, tokens):
        made = []

        def make(begin):
            made.append(block(namespace, tokens, begin))
            return made[-1]

        held = list(self.naive.held)
        self.cache.add(namespace, tokens, make)
        self.naive.add(namespace, tokens)
        assert made == [one for one in self.naive.beginnings(namespace, tokens) if one not in held]

    @rule(namespace=NAMESPACES, tokens=TEXTS)
    def find(self, namespace, tokens):
        found = self.cache.find(namespace, tokens)
        assert found == self.naive.find(namespace, tokens)
        assert not tokens or len(found) * BLOCK_TOKENS < len(tokens)  # the last token is always read
        self.queries += len(tokens)
        self.hits += len(found) * BLOCK_TOKENS

    @rule(max_tokens=st.integers(0, 10 * BLOCK_TOKENS))
    def shrink(self, max_tokens):
        self.cache.shrink(max_tokens)
        self.naive.shrink(max_tokens)
        assert self.cache.tokens <= max_tokens

    @rule()
    def clear(self):
        self.cache.clear()
        self.naive.shrink(0)

    @invariant()
    def holds_what_the_list_holds(self):
        assert list(self.cache._blocks.values()) == self.naive.held
        assert self.cache.tokens == len(self.naive.held) * BLOCK_TOKENS
        assert (self.cache.queries, self.cache.hits) == (self.queries, self.hits)

    @invariant()
    def holds_the_beginning_of_all_that_it_holds(self):
        for namespace, tokens in self.cache._blocks.values():
            shorter = tokens[:-BLOCK_TOKENS]
            assert not shorter or (namespace, shorter) in self.cache._blocks.values()


LifeOfAPrefixCache.TestCase.settings = settings(max_examples=100, stateful_step_count=30)
TestLifeOfAPrefixCache = LifeOfAPrefixCache.TestCase


def test_the_end_of_a_text_goes_before_its_beginning():
    cache, tokens = PrefixCache(), list(range(4 * BLOCK_TOKENS + 1))
    cache.add("a", tokens, lambda begin: begin)
    cache.shrink(3 * BLOCK_TOKENS)
    assert cache.find("a", tokens) == [0, BLOCK_TOKENS, 2 * BLOCK_TOKENS]
    cache.shrink(BLOCK_TOKENS)
    assert cache.find("a", tokens) == [0]


def test_what_was_used_least_recently_goes_first():
    cache = PrefixCache()
    for token in range(3):
        cache.add("a", [token] * BLOCK_TOKENS, lambda _begin, token=token: token)
    assert cache.find("a", [0] * (BLOCK_TOKENS + 1)) == [0]
    cache.shrink(2 * BLOCK_TOKENS)
    assert [len(cache.find("a", [token] * (BLOCK_TOKENS + 1))) for token in range(3)] == [1, 0, 1]


def test_the_last_token_of_a_prompt_is_never_found():
    cache, tokens = PrefixCache(), [1] * (2 * BLOCK_TOKENS)
    cache.add("a", tokens, lambda begin: begin)
    assert cache.find("a", tokens) == [0]
    assert cache.find("a", [*tokens, 1]) == [0, BLOCK_TOKENS]


def test_another_namespace_finds_nothing():
    cache, tokens = PrefixCache(), [1] * (BLOCK_TOKENS + 1)
    cache.add("a", tokens, lambda begin: begin)
    assert cache.find("b", tokens) == []
    assert cache.find("", tokens) == []
