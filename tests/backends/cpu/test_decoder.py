"""The CPU decoder against the plain arithmetic of its layers, and what changes no bit of its logits."""

from dataclasses import replace

import pytest
import torch

from helpers.cpu_decoders import (
    HIDDEN,
    INNER,
    decoder_of,
    embedded,
    empty_cache,
    random_weights,
    read,
    read_one_by_one,
    rope_cos_sin,
    step,
)
from helpers.cpu_kernels import DTYPES
from helpers.random_trees import random_tree
from lookahead.backends.cpu import team as team_module
from lookahead.backends.cpu.plan import Field
from lookahead.backends.cpu.tables import TreeTables
from lookahead.backends.cpu.team import torch_thread_team
from lookahead.decoding.attention.visibility import TreeRow
from lookahead.drafting.tree import DraftTree
from oracles.cpu_oracle import naive_decoder


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 2), (2, 1), (3, 3)])
def test_logits_are_those_of_the_plain_arithmetic(heads, key_heads, window):
    weights = random_weights(heads=heads, key_heads=key_heads, window=window)
    tokens = [(7 * index + index**2) % 64 for index in range(70)]
    logits = read_one_by_one(decoder_of(weights), weights, tokens, empty_cache(weights, 80))
    cosines, sines = rope_cos_sin(torch.arange(70), torch.float32)
    expected = naive_decoder(weights, embedded(tokens, torch.float32), cosines, sines)
    torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("length", "window"), [(1, None), (60, None), (64, 20), (130, 66)])
def test_a_nodes_logits_are_the_same_bits_in_a_tree_a_chain_and_steps(dtype, length, window):
    weights = random_weights(dtype, window=window)
    decoder = decoder_of(weights)
    cache = empty_cache(weights, 300)
    text = torch.arange(length) * 5 % 64
    read_one_by_one(decoder, weights, text, cache)
    for size in (1, 2, 3, 4, 5, 8, 17):
        tree = random_tree(size, seed=size)
        in_tree = step(decoder, weights, tree, length, cache)
        for node in range(size):
            path = tree.path_to(node)
            chain = DraftTree.chain(tree.token_ids[path])
            assert torch.equal(step(decoder, weights, chain, length, cache), in_tree[path])
        one_by_one = read_one_by_one(decoder, weights, tree.token_ids[path], cache, length)
        assert torch.equal(one_by_one, in_tree[path])


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_of_a_batch_is_the_same_bits_alone_wherever_it_is_in_the_cache(dtype, window):
    weights = random_weights(dtype, window=window)
    decoder, lengths, cache_rows = decoder_of(weights), [5, 70, 66], [4, 0, 3]
    alone, trees = [], [random_tree(size, size) for size in (4, 9, 1)]
    size = max(map(len, trees))
    cache, expected = (empty_cache(weights, 90, rows=6) for _ in range(2))
    for row, (length, tree) in enumerate(zip(lengths, trees, strict=True)):
        own = empty_cache(weights, 90)
        read_one_by_one(decoder, weights, (torch.arange(length) * 3 + row) % 64, own)
        for part, of_row in zip(cache, own, strict=True):
            part[:, cache_rows[row]] = of_row[:, 0]
        alone.append(step(decoder, weights, tree, length, own))
        for part, of_row in zip(expected, own, strict=True):
            part[:, cache_rows[row]] = of_row[:, 0]
    rows = [TreeRow(tree, length) for tree, length in zip(trees, lengths, strict=True)]
    together = read(decoder, weights, rows, cache, size=size, cache_rows=cache_rows).view(3, size, -1)
    for of_row, right, tree in zip(together, alone, trees, strict=True):
        assert torch.equal(of_row[: len(tree)], right)
    for row, (length, tree) in enumerate(zip(lengths, trees, strict=True)):  # copies of node 0, never read
        for part in cache:
            part[:, cache_rows[row], :, length + len(tree) : length + size] = torch.nan
    for part, right in zip(cache, expected, strict=True):  # each row's own slots were written, and no others
        assert torch.equal(part.isnan(), right.isnan())
        assert torch.equal(part.nan_to_num(), right.nan_to_num())


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_number_of_threads_changes_no_bit(dtype):
    weights, tree = random_weights(dtype, heads=2, key_heads=1), random_tree(6, seed=3)
    results = []
    for threads in (1, 2, 5):  # more than there are pieces of attention, and perhaps than there are cores
        torch.set_num_threads(threads)
        decoder, cache = decoder_of(weights), empty_cache(weights, 40)
        read_one_by_one(decoder, weights, range(20), cache)
        results.append((step(decoder, weights, tree, 20, cache), *cache))
    for result in results[1:]:
        for one, other in zip(results[0], result, strict=True):
            assert torch.equal(one.nan_to_num(), other.nan_to_num())


def test_more_threads_between_two_steps():
    weights = random_weights()
    torch.set_num_threads(1)
    decoder, cache = decoder_of(weights), empty_cache(weights, 10)
    first = step(decoder, weights, DraftTree.root_only(3), 0, cache)
    torch.set_num_threads(2)  # each thread needs memory of its own
    assert torch.equal(step(decoder, weights, DraftTree.root_only(3), 0, cache), first)


def test_the_workspace_is_reused_and_grows_when_it_must():
    weights = random_weights()
    decoder, cache = decoder_of(weights), empty_cache(weights, 600)

    def workspaces():
        return {field: tensor.data_ptr() for field, tensor in decoder._workspace.items()}

    step(decoder, weights, random_tree(8, seed=1), 0, cache)
    before = workspaces()
    assert before.keys() >= {Field.QUERIES_AT, Field.SCRATCH_AT}
    step(decoder, weights, random_tree(5, seed=1), 0, cache)
    step(decoder, weights, random_tree(8, seed=2), 0, cache)
    assert workspaces() == before
    sizes = {field: tensor.numel() for field, tensor in decoder._workspace.items()}
    step(decoder, weights, random_tree(20, seed=2), 0, cache)
    assert all(
        decoder._workspace[field].numel() > sizes[field] for field in (Field.QUERIES_AT, Field.STATES_AT)
    )


def test_logits_are_not_written_to_again():
    weights = random_weights()
    decoder, cache = decoder_of(weights), empty_cache(weights, 10)
    first = step(decoder, weights, DraftTree.root_only(3), 0, cache)
    kept = first.clone()
    step(decoder, weights, DraftTree.root_only(4), 0, cache)
    assert torch.equal(first, kept)


def test_the_tokens_embeddings_are_left_alone():
    weights = random_weights()
    given, rope = embedded([3], torch.float32), rope_cos_sin(torch.tensor([0]), torch.float32)
    before = given.clone()
    trees = TreeTables.of([TreeRow(DraftTree.root_only(3), 0)])
    decoder_of(weights).forward(given, rope, trees, empty_cache(weights, 4))
    assert torch.equal(given, before)


def reason_of(weights, **changed):
    return replace(weights, **changed).unsupported_reason()


def test_supported_weights():
    assert [random_weights(dtype).unsupported_reason() for dtype in DTYPES] == ["", ""]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_weights_of_another_dtype_are_not_supported(dtype):
    assert str(dtype) in random_weights(dtype).unsupported_reason()


def test_weights_of_two_dtypes_are_not_supported():
    weights = random_weights()
    reason = reason_of(weights, output=weights.output.bfloat16())
    assert "torch.bfloat16, torch.float32" in reason


def test_weights_on_another_device_or_not_contiguous_are_not_supported():
    weights = random_weights()
    assert "not all contiguous" in reason_of(weights, output=weights.output.T.contiguous().T)
    assert "not all contiguous" in reason_of(weights, last_norm=weights.last_norm.to("meta"))


def test_sizes_that_32_does_not_divide_are_not_supported():
    weights = random_weights()
    assert "(64, 96, 16)" in reason_of(weights, width=16)
    assert "(48, 96, 32)" in reason_of(weights, last_norm=weights.last_norm[:48].clone())


def test_a_vocabulary_of_less_than_a_unit_is_not_supported():
    weights = random_weights()
    assert reason_of(weights, output=weights.output[:16].clone()) == ""
    assert "15 tokens" in reason_of(weights, output=weights.output[:15].clone())


@pytest.mark.parametrize(
    "changed",
    [
        {"down": torch.zeros(HIDDEN, INNER - 32)},
        {"out": torch.zeros(HIDDEN, 96)},
        {"biases": [torch.zeros(64), None, None]},
        {"head_norms": [torch.zeros(64), None]},
    ],
)
def test_layers_of_different_shapes_are_not_supported(changed):
    weights = random_weights()
    layers = [weights.layers[0], replace(weights.layers[1], **changed)]
    assert "not all of one shape" in reason_of(weights, layers=layers)


def test_a_torch_without_openmp_has_no_team(monkeypatch):
    class Library:
        """Something loaded that has none of OpenMP's functions."""

    monkeypatch.setattr(team_module.ctypes, "CDLL", lambda _name: Library())
    assert torch_thread_team.__wrapped__() is None


def test_this_torch_has_a_team():
    assert torch_thread_team() is torch_thread_team()
    assert torch_thread_team() is not None
