"""NaN and infinite numbers in the CPU decoder: what torch gives, and only where a node sees them."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention, silu

from backends.cpu.test_attention_properties import attentions
from helpers.cpu_attention import Attention
from helpers.cpu_kernels import DTYPES, accumulate_values, elementwise_of, rounded, softmax
from lookahead.backends.cpu.kernels.attention.blocks import BLOCK, MASKED_SCORE
from lookahead.decoding.attention.visibility import TreeRow, Visibility
from lookahead.drafting.tree import DraftTree
from oracles.cpu_oracle import naive_norm

NAN, INF, LARGEST = torch.nan, torch.inf, torch.finfo(torch.float32).max
NUMBERS = [
    NAN,
    INF,
    -INF,
    LARGEST,
    -LARGEST,
    3e38,
    -3e38,
    1e20,
    100.0,
    88.5,
    -88.5,
    -89.0,
    -200.0,
    0.0,
    -0.0,
    1.0,
]
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def assert_alike(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=2e-5, atol=0, equal_nan=True)


def test_a_nan_is_rounded_to_a_nan_and_large_numbers_to_infinity():
    nans = [0x7F800001, 0x7FFFFFFF, -1, 0xFF800001 - 2**32, 0x7F80FFFF, 0x7FFF8000]
    large = [0x7F7FFFFF, 0x7F7F8000, 0x7F7F7FFF, 0x7F800000, 0xFF7FFFFF - 2**32]
    floats = torch.tensor(nans + large, dtype=torch.int32).view(torch.float32)
    for found in rounded(floats):
        assert found[: len(nans)].isnan().all()
        assert torch.equal(found[len(nans) :].float(), floats[len(nans) :].bfloat16().float())


@dtypes
@pytest.mark.parametrize("up", [1.0, 1e37, 0.0, INF, NAN])
def test_gated_units(dtype, up):
    gates = torch.tensor(NUMBERS)
    floats, out = torch.cat([gates, torch.full_like(gates, up)]), torch.empty(len(gates), dtype=dtype)
    elementwise_of("swiglu", [], floats, out, len(gates))
    assert_alike(out, silu(gates.to(dtype)) * torch.tensor(up, dtype=dtype))


@dtypes
@pytest.mark.parametrize("number", NUMBERS)
def test_norms(dtype, number):
    numbers = torch.linspace(-2, 2, 32).to(dtype)
    numbers[5] = number
    out, weight = torch.empty_like(numbers), torch.linspace(0, 3, 32).to(dtype)
    elementwise_of("norm", [numbers, weight], torch.empty(1), out, 32)
    assert_alike(out.float(), naive_norm(numbers, weight, 1e-5).float())


@dtypes
def test_residual_sums_and_biases(dtype):
    first = torch.tensor(NUMBERS)[None, :].repeat(len(NUMBERS), 1).flatten()
    second = torch.tensor(NUMBERS)[:, None].repeat(1, len(NUMBERS)).flatten()
    floats, like = torch.cat([first.to(dtype).float(), second]), torch.empty(len(first), dtype=dtype)
    elementwise_of("add", [like], floats, like, len(first))
    assert_alike(floats[: len(first)], (first.to(dtype) + second.to(dtype)).float())
    floats, out = torch.cat([first, second]), torch.empty(len(first), dtype=dtype)
    elementwise_of("store with bias", [like, second.to(dtype)], floats, out, len(first))
    assert_alike(out, (first + second.to(dtype).float()).to(dtype))


@dtypes
@pytest.mark.parametrize("number", [NAN, INF])
def test_a_score_that_is_no_number_makes_all_sums_nan(dtype, number):
    weights, state = torch.zeros(BLOCK), torch.tensor([1.0, 2.0])
    weights[3] = number
    softmax(weights, 2, 60, 1.0, state, dtype)
    assert state[1].isnan()
    assert weights[3].isnan()
    assert not weights[:2].any()
    assert not weights[60:].any()


@dtypes
def test_scores_of_minus_infinity_weigh_nothing(dtype):
    weights, state = torch.full((BLOCK,), -INF), torch.tensor([MASKED_SCORE, 0.0])
    assert softmax(weights, 0, BLOCK, 1.0, state, dtype) == 1.0
    assert not weights.any()
    assert state[1] == 0.0
    weights = torch.full((BLOCK,), -INF)
    weights[7] = -3e38
    softmax(weights, 0, BLOCK, 1.0, state, dtype)
    assert weights.nonzero().tolist() == [[7]]
    assert state.tolist() == [pytest.approx(-3e38), 1.0]


@dtypes
@pytest.mark.parametrize("bounds", [(0, 1), (1, 2), (3, 4), (3, 8), (63, 64)])
def test_an_infinite_value_is_infinite_where_its_weight_is_not_zero(dtype, bounds):
    first, end = bounds
    values, weights = torch.ones(BLOCK, 32), torch.zeros(1, BLOCK)
    values[first], weights[:, first:end] = INF, 0.5
    totals = accumulate_values(weights, values.to(dtype), bounds, torch.ones(1), torch.zeros(1, 32))
    assert torch.equal(totals, torch.full((1, 32), INF))


def sees(attention, row, slot):
    """Return which nodes of a row see a slot, bool [nodes]."""
    tree, length = attention.rows[row].tree, attention.rows[row].length
    first = Visibility.of(attention.rows, attention.queries.shape[1], window=attention.window).first[row]
    if slot < length:
        return torch.from_numpy(first[: len(tree)] <= slot)
    place = length + int(tree.depths[slot - length])
    return torch.tensor(
        [slot - length in tree.path_to(node) and first[node] <= place for node in range(len(tree))]
    )


@settings(max_examples=50)
@given(attentions(), st.randoms(use_true_random=False), st.sampled_from([NAN, INF, -INF]), st.booleans())
def test_only_the_nodes_that_see_it_are_not_finite(attention, random, number, is_value):
    row = random.randrange(len(attention.rows))
    found = attention.rows[row]
    slot = random.choice(
        [random.randrange(found.length or 1), found.length + random.randrange(len(found.tree))]
    )
    assume(slot >= found.left_padding)
    before, cache_row = attention.attended(), attention.cache_rows[row]
    if is_value:
        attention.values[cache_row, :, slot] = number
    else:
        attention.keys[cache_row, :, slot] = NAN
    after, seeing = attention.attended(), sees(attention, row, slot)
    nodes = len(found.tree)
    assert torch.equal(after[row, :nodes][~seeing], before[row, :nodes][~seeing])
    assert not after[row, :nodes][seeing].isfinite().any()
    others = [index for index in range(len(attention.rows)) if index != row]
    assert torch.equal(after[others], before[others])


@dtypes
@pytest.mark.parametrize("keys_at", [0, 1, 5, 64, 127, 511, 512, 690])
@pytest.mark.parametrize(
    ("key", "value"), [(NAN, 1.0), (0.0, NAN), (0.0, INF), (INF, 1.0), (-INF, 1.0), (3e38, 2.0)]
)
def test_attention_is_torchs(dtype, keys_at, key, value):
    size, queries = 700, torch.ones(1, 1, 1, 32, dtype=dtype)
    keys, values = torch.zeros(1, 1, size, 32, dtype=dtype), torch.ones(1, 1, size, 32, dtype=dtype)
    keys[..., keys_at, 0], values[..., keys_at, :] = key, value
    root = TreeRow(DraftTree.root_only(1), size - 1)
    found = Attention([root], [0], queries, keys, values).attended()[0, 0]
    scores = (queries.float() @ keys.float().transpose(2, 3)) * 32**-0.5
    expected = (scores.softmax(dim=-1) @ values.float())[0, 0]
    torch.testing.assert_close(found.float(), expected, rtol=1e-2, atol=0, equal_nan=True)


@dtypes
@pytest.mark.parametrize("size", [1, 64, 700])
def test_a_node_whose_scores_are_all_minus_infinity_attends_to_nothing(dtype, size):
    queries, values = torch.ones(1, 1, 1, 32, dtype=dtype), torch.ones(1, 1, size, 32, dtype=dtype)
    keys = torch.zeros(1, 1, size, 32, dtype=dtype)
    keys[..., 0] = -INF
    root = TreeRow(DraftTree.root_only(1), size - 1)
    found = Attention([root], [0], queries, keys, values).attended()
    assert torch.equal(found, scaled_dot_product_attention(queries, keys, values))
    assert not found.any()
