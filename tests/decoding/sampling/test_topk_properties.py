"""The largest numbers of a row by their bits, against sorting, and the largest against `argmax`."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from lookahead.decoding.sampling.topk import topk_indices

DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
FEW = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1.5, -1.5, 2.0, float("inf"), -float("inf"), 1e-30, -1e-30])
NUMBERS = st.one_of(
    st.lists(FEW, min_size=1, max_size=40), st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=40)
)


@given(NUMBERS, DTYPES, st.integers(1, 9), st.integers(0, 600))
def test_against_a_stable_sort(numbers, dtype, count, repeats):
    row = torch.tensor((numbers * (repeats // len(numbers) + 1))[: max(repeats, len(numbers))]).to(dtype)
    rows = torch.stack([row, row.flip(0)])
    count = min(count, rows.shape[1])
    expected = np.argsort(-rows.double().numpy(), axis=1, kind="stable")[:, :count]
    assert topk_indices(rows, count).tolist() == expected.tolist()
    assert topk_indices(rows, 1)[:, 0].tolist() == rows.float().argmax(dim=-1).tolist()


@given(NUMBERS, DTYPES, st.integers(0, 39), st.booleans())
def test_what_is_no_number_is_the_largest_whatever_its_sign(numbers, dtype, place, negative):
    row = torch.tensor(numbers).to(dtype)
    row[place % len(row)] = -float("nan") if negative else float("nan")
    assert topk_indices(row[None], 1).tolist() == [[int(row.float().argmax())]]


def test_other_types_are_left_to_torch():
    rows = torch.randn(3, 50, dtype=torch.float64)
    assert topk_indices(rows, 4).tolist() == rows.topk(4).indices.tolist()
