"""One table finds a token's ranks among the frequent ones and among the runner-ups."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lookahead.drafting.growth.frequent import FREQUENT, TOKENS, UNKNOWN, new_counts
from lookahead.drafting.growth.ranks import TABLE, UNRANKED_BUCKET, RankTable, fill_table, place_in_table
from lookahead.drafting.growth.runner_ups import RUNNER_UPS, new_runner_ups

TOKEN_IDS = st.integers(0, 40) | st.integers(0, 2**31 - 1)


def bucket(ranked, token):
    return ranked.index(token).bit_length() if token in ranked else UNRANKED_BUCKET


@given(
    frequent=st.lists(TOKEN_IDS, max_size=64, unique=True),
    runner_ups=st.lists(TOKEN_IDS, max_size=64, unique=True),
    others=st.lists(TOKEN_IDS, max_size=5),
)
def test_the_table_has_the_buckets_of_both_ranks(frequent, runner_ups, others):
    counts, nearly = new_counts(), new_runner_ups().tokens
    counts[TOKENS, : len(frequent)] = frequent
    nearly[: len(runner_ups)] = runner_ups
    table = RankTable(*(np.zeros(TABLE, np.int32) for _ in range(3)))
    fill_table(table, counts, nearly)
    ranked = frequent[:FREQUENT], runner_ups[:RUNNER_UPS]
    for token in (*frequent, *runner_ups, *others):
        place = place_in_table(table, token)
        if token in ranked[0] or token in ranked[1]:
            assert table.tokens[place] == token
            assert table.frequent[place] == bucket(ranked[0], token)
            assert table.runner_ups[place] == bucket(ranked[1], token)
        else:
            assert table.tokens[place] == UNKNOWN
