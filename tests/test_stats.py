"""Counts and times of generation, and their ratios."""

import pytest

from lookahead.stats import GenerationStats


def test_mean_acceptance_length_leaves_out_first_tokens():
    # two answers of 11 tokens, the first of each from prefill: 20 tokens in 8 row steps
    assert GenerationStats(requests=2, tokens=22, row_steps=8).mean_acceptance_length == 2.5


def test_before_any_step_the_mean_acceptance_length_is_one():
    assert GenerationStats().mean_acceptance_length == 1.0
    assert GenerationStats(requests=1, tokens=1).mean_acceptance_length == 1.0


def test_decoding_is_everything_but_prefill():
    assert (
        GenerationStats(prefill_s=8.0, draft_s=0.5, model_s=2.0, cache_s=0.125, verify_s=0.25).decode_s
        == 2.875
    )


def test_add_sums_every_count_and_leaves_the_other_unchanged():
    total = GenerationStats(requests=1, tokens=5, row_steps=2, draft_tokens=9, accepted_tokens=2, draft_s=0.5)
    other = GenerationStats(requests=1, tokens=6, row_steps=3, draft_tokens=7, accepted_tokens=2, model_s=1.5)
    total.add(other)
    assert total == GenerationStats(
        requests=2, tokens=11, row_steps=5, draft_tokens=16, accepted_tokens=4, draft_s=0.5, model_s=1.5
    )
    assert other.tokens == 6


@pytest.mark.parametrize(
    ("one", "other", "smallest"), [(None, None, None), (None, 2.0, 2.0), (0.5, 2.0, 0.5)]
)
def test_add_keeps_the_smaller_of_two_margins(one, other, smallest):
    for first, second in ((one, other), (other, one)):
        stats = GenerationStats(smallest_margin=first)
        stats.add(GenerationStats(smallest_margin=second))
        assert stats.smallest_margin == smallest


def test_the_acceptance_rate_is_the_share_of_drafted_tokens_that_were_accepted():
    assert GenerationStats(draft_tokens=8, accepted_tokens=2).acceptance_rate == 0.25
    assert GenerationStats(tokens=3).acceptance_rate == 0.0


def test_as_dict_names_every_count():
    counts = GenerationStats(requests=1, tokens=7, row_steps=3).as_dict()
    assert counts["row_steps"] == 3
    assert counts["mean_acceptance_length"] == 2.0
    assert set(counts) == {
        *("requests", "tokens", "row_steps", "forwards", "captured_forwards"),
        *("draft_tokens", "accepted_tokens", "recycled_tokens"),
        *("prefill_seconds", "draft_seconds", "recycle_seconds"),
        *("model_seconds", "cache_seconds", "verify_seconds"),
        *("mean_acceptance_length", "acceptance_rate", "smallest_margin", "replay_speedup"),
    }


def test_replays_are_counted_and_the_largest_speedup_is_kept():
    stats = GenerationStats(replay_speedup=2.0)
    stats.count_forward(nodes={0: 3}, tokens={0: 2}, is_captured=True)
    stats.count_forward(nodes={0: 3}, tokens={0: 2})
    assert (stats.forwards, stats.captured_forwards) == (2, 1)
    for other, largest in ((None, 2.0), (1.5, 2.0), (3.0, 3.0)):
        stats.add(GenerationStats(replay_speedup=other))
        assert stats.replay_speedup == largest


def test_counts_are_keyword_only():
    with pytest.raises(TypeError):
        GenerationStats(1, 2)
