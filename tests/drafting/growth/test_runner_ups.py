"""Runner-ups against the same on paper."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lookahead.drafting.growth.frequent import UNKNOWN
from lookahead.drafting.growth.runner_ups import ALTERNATIVES, KEPT, new_runner_ups, note_rows
from oracles.naive_log import CalibrationState, Request


def noted(rows, came):
    runner_ups = new_runner_ups()
    note_rows(runner_ups, np.array(rows, np.int32), np.array(came, np.int32))
    return runner_ups


def test_the_example_of_the_module():
    cat, dog, owl, hen = range(4)
    runner_ups = noted([[cat, dog, owl]], [cat])
    assert runner_ups.tokens[:3].tolist() == [dog, owl, UNKNOWN]
    np.testing.assert_allclose(runner_ups.scores[:2], [1 / 2, 1 / 3])
    runner_ups = noted([[cat, dog, owl], [owl, hen, dog]], [cat, hen])
    assert runner_ups.tokens[:3].tolist() == [owl, dog, UNKNOWN]
    np.testing.assert_allclose(runner_ups.scores[:2], [0.85 / 3 + 1, 0.85 / 2 + 1 / 3])
    assert runner_ups.alternatives[:4].tolist() == [owl, hen, dog, UNKNOWN]


@given(
    data=st.data(), width=st.integers(1, 10), count=st.integers(1, 40), alphabet=st.sampled_from([12, 200])
)
def test_any_text_equals_the_same_on_paper(data, width, count, alphabet):
    row = st.lists(st.integers(0, alphabet), min_size=width, max_size=width, unique=True)
    rows = data.draw(st.lists(row, min_size=count, max_size=count))
    came = data.draw(st.lists(st.integers(0, alphabet), min_size=count, max_size=count))
    runner_ups, naive = noted(rows, came), Request(0, [0], CalibrationState())
    naive.note(rows, came)
    size = len(naive.runner_ups)
    assert size <= KEPT
    assert runner_ups.tokens[:size].tolist() == [token for token, _ in naive.runner_ups]
    assert (runner_ups.tokens[size:] == UNKNOWN).all()
    np.testing.assert_allclose(runner_ups.scores[:size], [score for _, score in naive.runner_ups], rtol=1e-12)
    expected = [*naive.alternatives, *[UNKNOWN] * ALTERNATIVES][:ALTERNATIVES]
    assert runner_ups.alternatives.tolist() == expected
