"""The methods: each gives the text of `generate`; names and settings."""

from dataclasses import replace

import pytest

from helpers import tiny_models
from lookahead.bench.data.datasets import Row
from lookahead.bench.methods.registry import BASELINE, METHODS, make_methods
from lookahead.bench.run.cases import cases_of
from lookahead.bench.run.measuring import greedy
from lookahead.bench.run.runner import Plan, run_benchmark
from lookahead.config import LookaheadConfig
from lookahead.errors import ConfigError

CONFIG = LookaheadConfig(max_bytes=2**21, decoding_length=12)
WITH_NUMBERS = ["lookahead-8", "prompt-lookup-4"]


@pytest.mark.parametrize("name", [*(name for name in METHODS if not name.endswith("-N")), *WITH_NUMBERS])
def test_a_method_gives_the_text_of_generate(name):
    model, tokenizer = tiny_models.tiny_model("llama"), tiny_models.tiny_tokenizer()
    rows = [Row(row_id=text, category="qa", prompt=text) for text in ("HelloHelloHello", "abcabcab")]
    cases = cases_of(rows, tokenizer, model)
    plan = Plan(cases=cases, methods=make_methods([name], CONFIG), settings=greedy(16))
    benchmark = run_benchmark(model, tokenizer, plan)
    assert not benchmark.failed
    assert all(not result.differences for result in benchmark.results)
    assert all(result.runs[name].answers == result.runs[BASELINE].answers for result in benchmark.results)


def test_names_with_numbers_set_sizes():
    (sized,) = make_methods(["lookahead-8"], CONFIG)[1:]
    assert sized._lookahead.config == replace(CONFIG, decoding_length=8)
    default, fewer = make_methods(["prompt-lookup", "prompt-lookup-4"], CONFIG)[1:]
    assert default._options["prompt_lookup_num_tokens"] == 10
    assert fewer._options["prompt_lookup_num_tokens"] == 4


@pytest.mark.parametrize("name", ["lookahead-0", "lookahead-N", "lookahead-8x2", "prompt-lookup-", "llma"])
def test_other_names_are_unknown(name):
    with pytest.raises(ConfigError, match=f"'{name}' is unknown; choose from transformers, .*, lookahead-N"):
        make_methods([name], CONFIG)
