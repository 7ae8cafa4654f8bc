"""What reproducible text takes for granted of torch: in one shape, a row's bits are the row's own.

If an upgrade of torch breaks one of these, `reproducible=True` is broken there as well: the probe then says
so and such models take plain steps. See docs/concepts/reproducible.md.
"""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # its usual name

from lookahead.decoding.attention.branch_order import BLOCK
from lookahead.hf.support.simd_alignment import splits_vectors

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
SHAPES = [(16, 576, 1536), (16, 1536, 576), (48, 576, 192), (16, 896, 4864), (8, 64, 100)]


def numbers(*shape, dtype, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_a_linear_product_has_the_same_bits_in_every_row(rows, inputs, outputs, dtype):
    weight = numbers(outputs, inputs, dtype=dtype) / inputs**0.5
    given = numbers(1, inputs, dtype=dtype, seed=1)
    products = F.linear(given.repeat(rows, 1), weight)
    assert torch.equal(products, products[:1].expand_as(products))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_a_linear_product_does_not_depend_on_the_other_rows(rows, inputs, outputs, dtype):
    weight = numbers(outputs, inputs, dtype=dtype) / inputs**0.5
    given = numbers(rows, inputs, dtype=dtype, seed=1)
    expected = F.linear(given, weight)
    for row in (0, 1, rows - 1):
        among_others = numbers(rows, inputs, dtype=dtype, seed=2)
        among_others[row] = given[row]
        assert torch.equal(F.linear(among_others, weight)[row], expected[row])


@pytest.mark.parametrize(("groups", "width"), [(1, 8), (1, 64), (3, 64), (7, 128), (4, 80)])
def test_an_attention_product_has_the_same_bits_at_every_place(groups, width):
    """The two of a block of keys, for 2 rows, 3 key heads and 16 nodes at once."""
    query, keys = numbers(groups, width, dtype=torch.float32), numbers(BLOCK, width, dtype=torch.float32)
    shares = numbers(groups, BLOCK, dtype=torch.float32)
    everywhere = (2, 3, 16)
    scores = torch.matmul(query.expand(*everywhere, -1, -1), keys.T.expand(*everywhere, -1, -1))
    totals = torch.matmul(shares.expand(*everywhere, -1, -1), keys.expand(*everywhere, -1, -1))
    together = query.repeat(16, 1).expand(2, 3, -1, -1)
    of_all = torch.matmul(together, keys.T.expand(2, 3, -1, -1))
    shared = torch.matmul(shares.repeat(16, 1).expand(2, 3, -1, -1), keys.expand(2, 3, -1, -1))
    for products in (of_all.unflatten(2, (16, -1)), shared.unflatten(2, (16, -1)), scores, totals):
        assert torch.equal(products, products[:1, :1, :1].expand_as(products))
    others = numbers(*everywhere, groups, width, dtype=torch.float32, seed=3)
    others[1, 2, 5] = query
    assert torch.equal(torch.matmul(others, keys.T.expand(*everywhere, -1, -1))[1, 2, 5], scores[1, 2, 5])


@pytest.mark.parametrize("rows", [1, 7, 96])
def test_what_attention_does_to_each_number_and_each_sum_has_the_same_bits_everywhere(rows):
    scores = numbers(1, BLOCK, dtype=torch.float32).repeat(rows, 1)
    for found in (scores.exp(), scores.tanh(), scores.sum(-1), scores.amax(-1), scores / 3.0):
        assert torch.equal(found, found[:1].expand_as(found))


ACTIVATIONS = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu by tanh": lambda given: F.gelu(given, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "relu": F.relu,
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [100, 1536, 4864, 11008])
def test_an_activation_has_the_same_bits_in_every_row(width, dtype, threads):
    assert not splits_vectors(16 * width, threads)
    before = torch.get_num_threads()
    given = numbers(1, width, dtype=dtype).repeat(16, 1)
    torch.set_num_threads(threads)
    try:
        found = {name: activation(given) for name, activation in ACTIVATIONS.items()}
    finally:
        torch.set_num_threads(before)
    differing = {
        name for name, of_rows in found.items() if not torch.equal(of_rows, of_rows[:1].expand_as(given))
    }
    assert not differing


@pytest.mark.parametrize(
    ("elements", "threads", "is_cut"),
    [
        (16 * 4865, 1, True),  # what is left over at the end
        (16 * 4864, 1, False),
        (16 * 4864, 2, False),
        (16 * 4864, 3, True),
        (16 * 4864, 4, True),  # three parts, too few numbers for four
        (18 * 4864, 3, False),
        (16 * 1024, 7, False),  # one part
    ],
)
def test_where_threads_cut(elements, threads, is_cut):
    assert splits_vectors(elements, threads) is is_cut
