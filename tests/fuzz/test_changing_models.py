"""Models that change between and within calls, and Ctrl-C, come to the same with Lookahead.

A few sessions run with all tests. `make fuzz` runs five hundred, `make fuzz SEED=17` the one that a failure
has named.
"""

import os

import pytest

from fuzz.changing_models import SessionTally, drawn_session, try_session

CASES = os.environ.get("LOOKAHEAD_FUZZ_CASES")
ONLY = os.environ.get("LOOKAHEAD_FUZZ_SEED")
SEEDS = [int(ONLY)] if ONLY else range(int(CASES) // 2 if CASES else 8)


@pytest.mark.filterwarnings("ignore:.* is decoded in ")
def test_models_that_change():
    tally = SessionTally()
    for seed in SEEDS:
        session = drawn_session(seed)
        try:
            try_session(session, tally)
        except Exception as error:
            error.add_note(f"while trying {session}")
            raise
    print(tally.summary())  # noqa: T201  shown by `make fuzz`
    assert not tally.differences, "\n\n".join(tally.differences)
    if not ONLY:
        assert tally.accepted_tokens > 0
        assert tally.interrupted > 0
