"""The floor of a step: bytes that it reads, by what the memory gives."""

import pytest
import torch

from helpers.tiny_models import prompt, tiny_model
from lookahead.bench.profile.bandwidth import cache_bytes, measured_bandwidth, weight_bytes
from lookahead.hf.compat.layout import fresh_cache

WIDTH, VOCABULARY = 32, 64


def all_bytes(model):
    return sum(parameter.nbytes for parameter in model.parameters())


def test_of_an_untied_input_embedding_only_rows_are_read():
    model = tiny_model("llama", tie_word_embeddings=False)
    assert weight_bytes(model) == all_bytes(model) - VOCABULARY * WIDTH * 4


def test_a_tied_embedding_is_read_once_as_the_output_layer():
    model = tiny_model("llama", tie_word_embeddings=True)
    assert weight_bytes(model) == all_bytes(model)
    assert weight_bytes(model) == weight_bytes(tiny_model("llama", tie_word_embeddings=False))


def test_half_precision_is_half_the_bytes():
    assert 2 * weight_bytes(tiny_model("llama", torch.bfloat16)) == weight_bytes(tiny_model("llama"))


def test_the_caches_bytes_are_its_keys_and_values():
    model = tiny_model("llama")
    cache = fresh_cache(model)
    assert cache_bytes(cache) == 0
    with torch.no_grad():
        model(prompt(0, 10), past_key_values=cache)
    layers, both, heads, head_width, tokens, number = 2, 2, 2, 8, 10, 4
    assert cache_bytes(cache) == layers * both * heads * head_width * tokens * number


class Ticks:
    """A clock that shows what it is given, one reading after the other."""

    def __init__(self, *passes):
        self.readings = [reading for seconds in passes for reading in (0.0, seconds)]

    def __call__(self):
        return self.readings.pop(0)


@pytest.mark.parametrize(
    ("sum_s", "copy_s", "kernel", "bytes_per_s"),
    [(1.0, 4.0, "sum", 4096.0), (4.0, 1.0, "copy", 8192.0), (1.0, 1.9, "copy", 8192 / 1.9)],
)
def test_the_fastest_pass_counts_and_a_copy_moves_each_byte_twice(sum_s, copy_s, kernel, bytes_per_s):
    clock = Ticks(*[9.0] * 7, sum_s, *[9.0] * 7, copy_s)
    found = measured_bandwidth(torch.device("cpu"), probed_bytes=4096, clock=clock)
    assert found.kernel == kernel
    assert found.bytes_per_s == pytest.approx(bytes_per_s)
