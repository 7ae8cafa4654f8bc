"""Random calls, prompts, settings, memories and callbacks drawn from a seed, come to the same with Lookahead.

A few of them run with all tests. `make fuzz` runs a thousand, `make fuzz FUZZ_CASES=5000` more, and
`make fuzz SEED=17` the one that a failure has named.
"""

import os

import pytest

from fuzz.fuzz_cases import drawn_case
from fuzz.fuzz_runs import Tally, try_case

CASES = int(os.environ.get("LOOKAHEAD_FUZZ_CASES") or 16)
ONLY = os.environ.get("LOOKAHEAD_FUZZ_SEED")
SEEDS = [int(ONLY)] if ONLY else range(CASES)


@pytest.mark.filterwarnings("ignore:.* is decoded in ")  # the model cannot branch, and is served all the same
@pytest.mark.filterwarnings("ignore:Unfeasible length constraints")  # the library: both least and most tokens
@pytest.mark.filterwarnings("ignore:Passing `.*`inputs?_")  # the library: no prompt to penalize in embeddings
def test_random_calls():
    tally = Tally()
    for seed in SEEDS:
        case = drawn_case(seed)
        try:
            try_case(case, tally)
        except Exception as error:
            error.add_note(f"while trying {case}")
            raise
    print(tally.summary())  # noqa: T201  shown by `make fuzz`
    assert not tally.differences, "\n\n".join(tally.differences)
    if not ONLY:
        assert tally.compared > 0.85 * len(SEEDS)
        assert tally.accepted_tokens > 0.15 * tally.tokens
