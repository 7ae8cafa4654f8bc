"""The methods of `python -m research.bench`: each gives the text of `generate`, alone and in batches."""

from dataclasses import replace

import pytest
import torch

from helpers import tiny_models
from lookahead.bench.data.datasets import Row
from lookahead.bench.methods.registry import BASELINE, make_methods
from lookahead.bench.run.cases import cases_of
from lookahead.bench.run.measuring import greedy
from lookahead.bench.run.runner import Plan, run_benchmark
from lookahead.config import DraftMode, LookaheadConfig
from lookahead.drafting.log.token_log import TokenLog
from lookahead.drafting.trie.token_trie import TokenTrie
from lookahead.errors import ConfigError, MissingDependencyError
from research.bench.batches import measure_batch
from research.bench.experiments import EXPERIMENTS
from research.bench.library import StaticCompiledMethod
from research.bench.methods import research_methods, serves_batches

CONFIG = LookaheadConfig(max_bytes=2**21, decoding_length=12)
METHODS = research_methods(lambda: tiny_models.tiny_model("llama"))
COMPILED = "static-compile"
WITHOUT_NUMBERS = [name for name in METHODS if "N" not in name]
WITH_NUMBERS = ["lookahead-8", "lookahead-8x2", "lookahead-64KiB", "prompt-lookup-4"]


@pytest.fixture(scope="module")
def model():
    return tiny_models.tiny_model("llama")


@pytest.mark.parametrize("name", [*(name for name in WITHOUT_NUMBERS if name != COMPILED), *WITH_NUMBERS])
def test_a_method_gives_the_text_of_generate(model, name):
    tokenizer = tiny_models.tiny_tokenizer()
    rows = [Row(row_id=text, category="qa", prompt=text) for text in ("HelloHelloHello", "abcabcab")]
    methods = make_methods([name], CONFIG, METHODS)
    plan = Plan(cases=cases_of(rows, tokenizer, model), methods=methods, settings=greedy(16))
    benchmark = run_benchmark(model, tokenizer, plan)
    assert not benchmark.failed
    assert all(not result.differences for result in benchmark.results)
    assert all(result.runs[name].answers == result.runs[BASELINE].answers for result in benchmark.results)


@pytest.mark.parametrize("name", [name for name in WITHOUT_NUMBERS if name.startswith(("lookahead", "llma"))])
def test_what_a_method_says_of_batches_is_so(model, name):
    plain, method = make_methods([name], CONFIG, METHODS)
    inputs = {"input_ids": torch.cat([tiny_models.prompt(1), tiny_models.prompt(2)])}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    run = measure_batch(method, model, inputs, settings=greedy(8))
    reference = measure_batch(plain, model, inputs, settings=greedy(8))
    assert serves_batches(method)
    assert run.answers == reference.answers
    assert len(run.answers) == 2
    assert (run.decode_tokens, run.decode_s, run.first_token_s) == (14, 0.0, None)
    assert run.steps <= reference.steps == 14


def test_names_with_numbers_set_sizes():
    deep, capped = make_methods(["lookahead-8x2", "lookahead-64KiB"], CONFIG, METHODS)[1:]
    assert deep._lookahead.config == replace(CONFIG, decoding_length=8, branch_length=2)
    assert capped._lookahead.memory.store.max_bytes == 2**16


def test_the_papers_variants_are_what_they_are_called():
    auto = replace(CONFIG, decoding_length="auto")
    expected = {
        "llma": (TokenLog, DraftMode.SINGLE),
        "lookahead-parallel": (TokenTrie, DraftMode.PARALLEL),
        "lookahead-trie": (TokenTrie, DraftMode.HIERARCHICAL),
        "lookahead-log": (TokenLog, DraftMode.HIERARCHICAL),
    }
    for name, (store, mode) in expected.items():
        lookahead = make_methods([name], auto, METHODS)[1]._lookahead
        assert isinstance(lookahead.memory.store, store)
        assert (lookahead.config.draft_mode, lookahead.config.decoding_length) == (mode, 16)


def test_a_forgotten_memory_is_of_the_same_store():
    method = make_methods(["lookahead-trie"], CONFIG, METHODS)[1]
    method.remember([1, 2, 3])
    method.forget()
    assert isinstance(method._lookahead.memory.store, TokenTrie)
    assert len(method._lookahead.memory.store.snapshot()["token"]) == 1  # the root


def test_assisted_asks_for_its_model():
    with pytest.raises(ConfigError, match="--assistant"):
        make_methods(["assisted"], CONFIG, research_methods())


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(MissingDependencyError, match="needs a C\\+\\+ compiler"):
        make_methods([COMPILED], CONFIG, METHODS)


def test_compiled_steps_have_a_cache_of_one_size(monkeypatch):
    class Spy:
        config = tiny_models.tiny_model("llama").config
        lengths: list[int] = []  # noqa: RUF012

        def generate(self, *, past_key_values, compile_config, input_ids, **_options):
            self.lengths.append(past_key_values.layers[0].max_cache_len)
            assert compile_config._compile_all_devices
            return input_ids

    monkeypatch.setattr("shutil.which", lambda _: "a compiler")
    method = StaticCompiledMethod(COMPILED)
    method.cache_tokens = 64
    for length in (4, 40, 60):
        ids = torch.zeros((1, length), dtype=torch.int64)
        method.generate(Spy(), {"input_ids": ids}, settings=greedy(10), streamer=None)
    assert Spy.lengths == [64, 64, 70]


def test_prompt_lookup_is_the_best_of_three():
    (method,) = make_methods(["prompt-lookup"], CONFIG, METHODS)[1:]
    assert method.name == "prompt-lookup"
    assert not serves_batches(method)
    assert list(method.variants) == [f"prompt-lookup-{size}" for size in (5, 10, 20)]


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=lambda experiment: experiment.name)
def test_an_experiments_methods_exist_and_serve_its_batches(experiment):
    made = make_methods(experiment.methods, CONFIG, METHODS)
    assert len(made) == len({BASELINE, *experiment.methods})
    assert not experiment.batch_sizes or all(serves_batches(method) for method in made)
