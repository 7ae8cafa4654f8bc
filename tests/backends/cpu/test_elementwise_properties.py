"""Norms, rotary positions and gated units round where the layers of transformers round."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import silu

from helpers.cpu_kernels import DTYPES, elementwise_of, rounded
from oracles.cpu_oracle import naive_norm, naive_rope

EPSILON = 1e-5
dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 2**32)
sizes = st.integers(1, 9).map(lambda count: 16 * count)


def random_numbers(seed, dtype, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_rounded_alike(actual, expected):
    """In float32 but for rounding; in bfloat16, where sums in float32 seldom differ, at most one unit."""
    allowed = 1e-5 if actual.dtype == torch.float32 else 2**-7
    assert actual.dtype == expected.dtype
    torch.testing.assert_close(actual, expected, rtol=allowed, atol=1e-6)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50))
def test_rounding_to_bfloat16_is_torchs(numbers):
    floats = torch.tensor(numbers, dtype=torch.float32)
    stored, rerotated = rounded(floats)
    expected = floats.to(torch.bfloat16)
    assert torch.equal(stored.view(torch.int16), expected.view(torch.int16))
    assert torch.equal(rerotated, expected.float())


def test_halves_are_rounded_to_even():
    bits = torch.tensor([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF], dtype=torch.int32)
    stored, _ = rounded(bits.view(torch.float32))
    assert stored.view(torch.int16).tolist() == [0x3F80, 0x3F82, 0x3F81, 0x3F80]


@given(seeds, dtypes, sizes)
def test_sum_of_squares(seed, dtype, size):
    numbers, found = random_numbers(seed, dtype, size), torch.zeros(1)
    elementwise_of("squares", [numbers], found, torch.empty(0, dtype=dtype), size)
    assert found.item() == pytest.approx(numbers.double().pow(2).sum().item(), rel=1e-6)


@given(seeds, dtypes, sizes)
def test_norm(seed, dtype, size):
    numbers, weight = random_numbers(seed, dtype, size), random_numbers(seed + 1, dtype, size)
    out = torch.empty_like(numbers)
    elementwise_of("norm", [numbers, weight], torch.empty(1), out, size)
    assert_rounded_alike(out, naive_norm(numbers, weight, EPSILON))
    elementwise_of("norm", [numbers, weight], torch.empty(1), numbers, size)  # in place
    assert torch.equal(numbers, out)


@given(seeds, dtypes, sizes)
def test_norm_of_a_stream_kept_in_float32(seed, dtype, size):
    stream, weight = random_numbers(seed, torch.float32, size), random_numbers(seed + 1, dtype, size)
    out = torch.empty(size, dtype=dtype)
    elementwise_of("norm of floats", [weight, weight], stream, out, size)
    assert_rounded_alike(out, naive_norm(stream, weight, EPSILON))


@given(seeds, dtypes, st.sampled_from([32, 64, 128]))
def test_rope(seed, dtype, width):
    head, cosine, sine = random_numbers(seed, dtype, 3, width)
    expected, rotated = naive_rope(head, cosine, sine), torch.empty_like(head)
    elementwise_of("rope", [head, cosine, sine], torch.empty(1), rotated, width)
    assert torch.equal(rotated, expected)
    elementwise_of("rope", [head, cosine, sine], torch.empty(1), head, width)  # in place
    assert torch.equal(head, expected)


@given(seeds, dtypes, sizes)
def test_swiglu(seed, dtype, size):
    products = 6 * random_numbers(seed, torch.float32, 2, size)
    out = torch.empty(size, dtype=dtype)
    elementwise_of("swiglu", [], products, out, size)
    gates, ups = products.to(dtype)
    assert_rounded_alike(out, silu(gates) * ups)


def test_every_rounding_in_between_is_the_librarys():
    # A sum or a power in float32 now and then rounds to the neighbour; a rounding left out does so often.
    products = 3 * random_numbers(1, torch.float32, 2, 4096)
    gates, ups = products.to(torch.bfloat16)
    gated, normal = torch.empty_like(gates), torch.empty_like(gates)
    elementwise_of("swiglu", [], products, gated, 4096)
    elementwise_of("norm", [gates, ups], torch.empty(1), normal, 4096)
    assert (gated != silu(gates) * ups).float().mean() < 0.01
    assert (normal != naive_norm(gates, ups, EPSILON)).float().mean() < 0.01


@given(seeds, dtypes, sizes)
def test_adding_to_the_stream(seed, dtype, size):
    stream = random_numbers(seed, dtype, size)
    products = random_numbers(seed + 1, torch.float32, size)
    floats = torch.stack([stream.float(), products])
    elementwise_of("add", [stream], floats, stream, size)
    assert torch.equal(floats[0], (stream + products.to(dtype)).float())


@given(seeds, dtypes, st.integers(16, 80), st.booleans())
def test_storing(seed, dtype, size, has_bias):
    products, bias = random_numbers(seed, torch.float32, size), random_numbers(seed + 1, dtype, size)
    out = torch.full((size + 16,), 7.0, dtype=dtype)
    elementwise_of("store with bias" if has_bias else "store", [bias, bias], products, out, size)
    assert torch.equal(out[:size], (products + bias.float() if has_bias else products).to(dtype))
    assert (out[size:] == 7.0).all()
