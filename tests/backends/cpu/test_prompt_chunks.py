"""A prompt has the same bits however it is read: in chunks of any size, in a batch, in steps of one token."""

from functools import cache
from itertools import product
from typing import NamedTuple
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.cpu_decoders import decoder_of, embedded, empty_cache, random_weights, read, rope_cos_sin, step
from helpers.cpu_kernels import DTYPES, kinds
from helpers.random_trees import random_tree
from helpers.samples import sampled
from lookahead.backends.cpu import decoder as decoder_module
from lookahead.backends.cpu.kernels.attention.pieces import SPAN
from lookahead.backends.cpu.tables import TreeTables
from lookahead.decoding.attention.visibility import TreeRow
from lookahead.drafting.tree import DraftTree
from oracles.cpu_oracle import naive_decoder

LONGEST, TEXTS = 300, 3
SHAPES = {
    torch.float32: [(None, (4, 2)), (40, (3, 3))],
    torch.bfloat16: [(None, (4, 2)), (7, (9, 3)), (100, (3, 3))],
}
KINDS = [(*kind, *shape) for kind in kinds() for shape in SHAPES[kind[0]]]
"""Dtype, whether tile registers are used, window of the second layer, heads and key heads."""
THREADS = st.sampled_from([1, 1, 1, 2])
"""Seldom two: they wait for each other where other processes use the cores."""
SIZES = st.sampled_from([1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 128, 150, 299, LONGEST])


class Model(NamedTuple):
    """A decoder with its weights."""

    weights: object
    decoder: object

    def read(self, rows, memory, *, threads=1, **settings):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return read(self.decoder, self.weights, rows, memory, **settings)
        finally:
            torch.set_num_threads(before)


class Expected(NamedTuple):
    """What steps of one token write and return.

    Attributes:
        keys: [layers, key heads, tokens, width].
        values: Likewise.
        logits: [tokens, vocabulary].
    """

    keys: torch.Tensor
    values: torch.Tensor
    logits: torch.Tensor


@cache
def model_of(kind):
    dtype, uses_tiles, window, (heads, key_heads) = kind
    weights = random_weights(dtype, heads, key_heads, window)
    with patch.object(decoder_module, "may_use_tiles", lambda: uses_tiles):
        return Model(weights, decoder_of(weights))


@cache
def text_of(number, length=LONGEST):
    return torch.randint(0, 64, (length,), generator=torch.Generator().manual_seed(number)).tolist()


def read_in_steps(model, text):
    memory = empty_cache(model.weights, len(text))
    logits = [
        step(model.decoder, model.weights, DraftTree.root_only(token), place, memory)
        for place, token in enumerate(text)
    ]
    return Expected(memory[0][:, 0], memory[1][:, 0], torch.cat(logits))


@cache
def expected_of(kind, number):
    return read_in_steps(model_of(kind), text_of(number))


def part_of(text, begin, end, padding):
    """The row that reads some tokens of a text."""
    mask = torch.cat([torch.zeros(padding), torch.ones(begin)]).long() if padding else None
    return TreeRow(DraftTree.chain(text[begin:end]), padding + begin, mask)


def assert_holds(memory, row, padding, expected, tokens):
    """A row of the cache holds these tokens; nothing was written before and behind them."""
    for part, right in zip(memory, expected[:2], strict=True):
        of_row = part[:, row]
        assert torch.equal(of_row[:, :, padding : padding + tokens], right[:, :, :tokens])
        assert of_row[:, :, :padding].isnan().all()
        assert of_row[:, :, padding + tokens :].isnan().all()


@pytest.mark.parametrize("chunk", [1, 16, 64, 100, LONGEST])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_chunks_of_one_size(kind, chunk):
    model, text, expected = model_of(kind), text_of(0), expected_of(kind, 0)
    memory, logits = empty_cache(model.weights, LONGEST + 9), []
    for begin in range(0, LONGEST, chunk):
        rows = [part_of(text, begin, min(begin + chunk, LONGEST), 0)]
        logits.append(model.read(rows, memory))
    assert torch.equal(torch.cat(logits), expected.logits)
    assert_holds(memory, 0, 0, expected, LONGEST)


class Prompt(NamedTuple):
    """The first tokens of a text, and where the parts end in which they are read, some of them empty."""

    text: int
    tokens: int
    padding: int
    ends: list[int]


@st.composite
def prompts(draw):
    tokens = draw(SIZES)
    ends = sorted([*draw(st.lists(st.integers(0, tokens), max_size=4)), tokens])
    return Prompt(
        draw(st.integers(0, TEXTS - 1)), tokens, draw(st.sampled_from([0, 0, 1, 37, 64, 130])), ends
    )


def read_together(model, batch, memory, cache_rows, wanted, threads):
    """Read a part of each prompt at a time; return for each prompt the wanted last logits of each part."""
    found = [[] for _ in batch]
    begins = [0] * len(batch)
    for turn in range(max(len(prompt.ends) for prompt in batch)):
        ends = [prompt.ends[min(turn, len(prompt.ends) - 1)] for prompt in batch]
        going = [row for row in range(len(batch)) if ends[row] > begins[row]]
        if not going:
            continue
        rows = [
            part_of(text_of(batch[row].text), begins[row], ends[row], batch[row].padding) for row in going
        ]
        logits_of = None if wanted is None else [min(wanted, ends[row] - begins[row]) for row in going]
        slots = [cache_rows[row] for row in going]
        logits = model.read(rows, memory, cache_rows=slots, logits_of=logits_of, threads=threads)
        sizes = [ends[row] - begins[row] for row in going] if logits_of is None else logits_of
        assert len(logits) == sum(sizes)
        for row, of_row in zip(going, logits.split(sizes), strict=True):
            found[row].append((ends[row], of_row))
            begins[row] = ends[row]
    return found


@settings(max_examples=60)
@given(
    st.sampled_from(KINDS),
    st.lists(prompts(), min_size=1, max_size=4),
    THREADS,
    st.sampled_from([None, None, 0, 1, 40]),
    st.randoms(use_true_random=False),
)
def test_any_chunks_of_any_batch(kind, batch, threads, wanted, random):
    model = model_of(kind)
    expected = [expected_of(kind, prompt.text) for prompt in batch]
    slots = max(prompt.padding + prompt.tokens for prompt in batch) + random.randrange(9)
    memory = empty_cache(model.weights, slots, rows=len(batch) + 2)
    cache_rows = random.sample(range(len(batch) + 2), len(batch))
    found = read_together(model, batch, memory, cache_rows, wanted, threads)
    for prompt, row, parts, right in zip(batch, cache_rows, found, expected, strict=True):
        assert_holds(memory, row, prompt.padding, right, prompt.tokens)
        for end, logits in parts:
            assert torch.equal(logits, right.logits[end - len(logits) : end])
    for row in set(range(len(batch) + 2)) - set(cache_rows):
        assert all(part[:, row].isnan().all() for part in memory)


@settings(max_examples=60)
@given(
    st.sampled_from(KINDS),
    SIZES.filter(lambda size: size < LONGEST),
    st.integers(2, 20),
    THREADS,
    st.randoms(use_true_random=False),
)
def test_nodes_of_a_tree_next_to_a_prompt(kind, length, nodes, threads, random):
    """A tree and a prompt in one forward pass; the tree's path is then read as a prompt, and in steps."""
    model, text, other = model_of(kind), text_of(0), expected_of(kind, 1)
    tree, padding = random_tree(nodes, random.randrange(1000)), random.choice([0, 5, 70])
    memory = empty_cache(model.weights, padding + LONGEST + 20, rows=2)
    model.read([part_of(text, 0, length, padding)], memory, cache_rows=[1])
    mask = torch.cat([torch.zeros(padding), torch.ones(length)]).long()
    rows = [TreeRow(tree, padding + length, mask), part_of(text_of(1), 0, LONGEST, 0)]
    logits = model.read(rows, memory, cache_rows=[1, 0], threads=threads)
    assert torch.equal(logits[nodes:], other.logits)
    assert_holds(memory, 0, 0, other, LONGEST)
    path = tree.path_to(random.randrange(nodes))
    tokens = [*text[:length], *tree.token_ids[path].tolist()]
    alone = empty_cache(model.weights, len(tokens))
    as_prompt = model.read([part_of(tokens, 0, len(tokens), 0)], alone)
    assert torch.equal(logits[path], as_prompt[length:])
    slots = torch.tensor([padding + length + node for node in path])
    for part, of_prompt in zip(memory, alone, strict=True):
        assert torch.equal(part[:, 1, :, slots], of_prompt[:, 0, :, length:])


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("dtype", "threads"), sampled(product(DTYPES, [1, 2]), zip(DTYPES, [1, 2], strict=True)), ids=str
)
def test_several_blocks_of_the_width_and_several_spans_of_places(dtype, threads):
    """The sample has each dtype and each number of threads."""
    weights = random_weights(dtype, window=590, hidden=704, inner=1344)
    model, text = Model(weights, decoder_of(weights)), text_of(7, SPAN + 90)
    expected = read_in_steps(model, text)
    memory, logits = empty_cache(weights, len(text)), []
    for begin, end in ((0, 3), (3, 220), (220, len(text))):
        logits.append(model.read([part_of(text, begin, end, 0)], memory, threads=threads))
    assert torch.equal(torch.cat(logits), expected.logits)
    assert_holds(memory, 0, 0, expected, len(text))


@pytest.mark.parametrize("window", [None, 7])
def test_logits_of_a_prompt_are_those_of_the_plain_arithmetic(window):
    kind = (torch.float32, False, window, (4, 2))
    model, text = model_of(kind), text_of(0)
    logits = model.read([part_of(text, 0, LONGEST, 0)], empty_cache(model.weights, LONGEST))
    rope = rope_cos_sin(torch.arange(LONGEST), torch.float32)
    expected = naive_decoder(model.weights, embedded(text, torch.float32), *rope)
    torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-4)


def test_only_the_wanted_logits_are_computed():
    model, text, expected = model_of(KINDS[-1]), text_of(0), expected_of(KINDS[-1], 0)
    rows = [part_of(text, 0, 40, 0), part_of(text, 0, 7, 3), part_of(text, 0, 90, 0)]
    for wanted in ([1, 0, 90], [0, 7, 2], [40, 1, 0], [0, 0, 0]):
        memory = empty_cache(model.weights, 100, rows=3)
        logits = model.read(rows, memory, logits_of=wanted)
        assert logits.shape == (sum(wanted), model.weights.output.shape[0])
        for count, row, of_row in zip(wanted, rows, logits.split(wanted), strict=True):
            assert torch.equal(of_row, expected.logits[len(row.tree) - count : len(row.tree)])


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_overflows_later_in_a_prompt_leaves_earlier_tokens_alone(kind, number):
    model, text, place = model_of(kind), text_of(0), 77
    weights = model.weights
    given, rope = (
        embedded(text[:120], weights.output.dtype),
        rope_cos_sin(torch.arange(120), weights.output.dtype),
    )
    given[place:] = number
    memory, rows = empty_cache(weights, 120), [part_of(text, 0, 120, 0)]
    trees = TreeTables.of(rows, windows=model.decoder.windows)
    logits = model.decoder.forward(given, rope, trees, memory)
    expected = expected_of(kind, 0)
    assert torch.equal(logits[:place], expected.logits[:place])
    assert logits[place:].isnan().all()
    for part, right in zip(memory, expected[:2], strict=True):
        assert torch.equal(part[:, 0, :, :place], right[:, :, :place])
