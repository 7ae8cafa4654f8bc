"""The prefix cache finds exactly what was kept, for the namespace that it was kept for."""

from hypothesis import given, settings
from hypothesis import strategies as st

from lookahead.engine import prefix_cache
from lookahead.engine.prefix_cache import BLOCK_TOKENS, PrefixCache

texts = st.lists(st.sampled_from([1, 2]), max_size=5).map(
    lambda blocks: [token for block in blocks for token in [block] * BLOCK_TOKENS]
)
operations = st.lists(st.tuples(st.sampled_from("ab"), texts, st.integers(0, 70)), max_size=12)


def block(namespace, tokens, begin):
    """What stands for keys and values in these tests: all that they depend on."""
    return (namespace, tuple(tokens[: begin + BLOCK_TOKENS]))


@settings(deadline=None)
@given(operations, st.integers(0, 8))
def test_found_blocks_are_those_of_the_very_text_and_namespace(asked, max_blocks):
    cache = PrefixCache()
    for namespace, text, extra in asked:
        tokens = [*text, *[3] * extra]
        found = cache.find(namespace, tokens)
        assert found == [block(namespace, tokens, index * BLOCK_TOKENS) for index in range(len(found))]
        assert len(found) * BLOCK_TOKENS < max(1, len(tokens))  # the last token is always read
        cache.add(namespace, tokens, lambda begin: block(namespace, tokens, begin))  # noqa: B023
        again = cache.find(namespace, [*tokens, 4])
        assert len(again) == len(tokens) // BLOCK_TOKENS
        cache.shrink(max_blocks * BLOCK_TOKENS)
        assert cache.tokens <= max_blocks * BLOCK_TOKENS


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


def test_hits_are_counted():
    cache = PrefixCache()
    cache.add("a", [1] * 130, lambda begin: begin)
    cache.find("a", [1] * 130)
    cache.find("b", [1] * 130)
    assert (cache.queries, cache.hits, cache.tokens) == (260, 128, 128)
    cache.clear()
    assert cache.tokens == 0
    assert prefix_cache.BLOCK_TOKENS <= 64
