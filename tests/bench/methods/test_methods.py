"""The methods: each gives the text of `generate`; names, settings, what they need."""

from dataclasses import replace

import pytest
import torch

from helpers import tiny_models
from lookahead.bench.data.datasets import Row
from lookahead.bench.methods.library import StaticCompiledMethod
from lookahead.bench.methods.method import Method
from lookahead.bench.methods.registry import BASELINE, METHODS, Ingredients, make_methods
from lookahead.bench.run.experiments import EXPERIMENTS
from lookahead.bench.run.measuring import greedy, measure
from lookahead.bench.run.runner import Plan, run_benchmark
from lookahead.config import DraftMode, LookaheadConfig
from lookahead.drafting.log.token_log import TokenLog
from lookahead.drafting.trie.token_trie import TokenTrie
from lookahead.errors import ConfigError, MissingDependencyError

CONFIG = LookaheadConfig(max_bytes=2**21, decoding_length=12)
COMPILED = "static-compile"
WITH_NUMBERS = ["lookahead-8", "lookahead-8x2", "lookahead-64KiB", "prompt-lookup-4"]


@pytest.fixture(scope="module")
def model():
    return tiny_models.tiny_model("llama")


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_models.tiny_tokenizer()


@pytest.fixture(scope="module")
def given():
    return Ingredients(config=CONFIG, assistant=lambda: tiny_models.tiny_model("llama"), longest_tokens=64)


@pytest.mark.parametrize("name", [*(name for name in METHODS if name != COMPILED), *WITH_NUMBERS])
def test_a_method_gives_the_text_of_generate(model, tokenizer, given, name):
    rows = [Row(row_id=text, category="qa", prompt=text) for text in ("HelloHelloHello", "abcabcab")]
    plan = Plan(rows=rows, methods=[name], given=given, settings=greedy(16))
    benchmark = run_benchmark(model, tokenizer, plan)
    assert not benchmark.failed
    assert all(not result.differences for result in benchmark.results)
    assert all(result.runs[name].answers == result.runs[BASELINE].answers for result in benchmark.results)


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name] and name.startswith("lookahead")])
def test_what_a_method_says_of_batches_is_so(model, given, name):
    method = METHODS[name](given)
    inputs = {"input_ids": torch.cat([tiny_models.prompt(1), tiny_models.prompt(2)])}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    run = measure(method, model, inputs, settings=greedy(8))
    plain = measure(METHODS[BASELINE](given), model, inputs, settings=greedy(8))
    assert method.batches
    assert run.answers == plain.answers
    assert len(run.answers) == 2
    assert (run.decode_tokens, run.decode_s, run.first_token_s) == (14, 0.0, None)
    assert run.steps <= plain.steps == 14


def test_names_with_numbers_set_sizes():
    sized, deep, capped = make_methods(["lookahead-8", "lookahead-8x2", "lookahead-64KiB"], GIVEN)[1:]
    assert sized._lookahead.config == replace(CONFIG, decoding_length=8)
    assert deep._lookahead.config == replace(CONFIG, decoding_length=8, branch_length=2)
    assert capped._lookahead.memory.store.max_bytes == 2**16
    with pytest.raises(ConfigError, match="'lookahead-0' is unknown"):
        make_methods(["lookahead-0"], GIVEN)


GIVEN = Ingredients(config=CONFIG)


def test_the_papers_variants_are_what_they_are_called():
    auto = Ingredients(config=replace(CONFIG, decoding_length="auto"))
    expected = {
        "llma": (TokenLog, DraftMode.SINGLE),
        "lookahead-parallel": (TokenTrie, DraftMode.PARALLEL),
        "lookahead-trie": (TokenTrie, DraftMode.HIERARCHICAL),
        "lookahead-log": (TokenLog, DraftMode.HIERARCHICAL),
    }
    for name, (store, mode) in expected.items():
        lookahead = METHODS[name](auto)._lookahead
        assert isinstance(lookahead.memory.store, store)
        assert (lookahead.config.draft_mode, lookahead.config.decoding_length) == (mode, 16)


def test_a_forgotten_memory_is_of_the_same_store():
    method = METHODS["lookahead-trie"](GIVEN)
    method.remember([1, 2, 3])
    method.forget()
    assert isinstance(method._lookahead.memory.store, TokenTrie)
    assert len(method._lookahead.memory.store.snapshot()["token"]) == 1  # the root


def test_assisted_asks_for_its_model():
    with pytest.raises(ConfigError, match="--assistant"):
        make_methods(["assisted"], GIVEN)


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(MissingDependencyError, match="needs a C\\+\\+ compiler"):
        make_methods([COMPILED], GIVEN)


def test_compiled_steps_have_a_cache_of_one_size():
    class Spy:
        config = tiny_models.tiny_model("llama").config
        lengths: list[int] = []  # noqa: RUF012

        def generate(self, *, past_key_values, compile_config, input_ids, **_options):
            self.lengths.append(past_key_values.layers[0].max_cache_len)
            assert compile_config._compile_all_devices
            return input_ids

    method = StaticCompiledMethod.__new__(StaticCompiledMethod)
    method._cache_tokens = 64
    for length in (4, 40, 60):
        ids = torch.zeros((1, length), dtype=torch.int64)
        method.generate(Spy(), {"input_ids": ids}, settings=greedy(10), streamer=None)
    assert Spy.lengths == [64, 64, 70]


def test_the_fastest_variant_is_chosen_on_rows_of_every_category(model, tokenizer):
    class Slow(Method):
        def __init__(self, name, seconds, variants=()):
            self.name, self.seconds, self.seen, self.variants = name, seconds, 0, variants

        def generate(self, _model, inputs, *, streamer, **_options):
            nonlocal now
            now += self.seconds
            self.seen += 1
            return METHODS[BASELINE](GIVEN).generate(_model, inputs, streamer=streamer, settings=greedy(2))

    now = 0.0
    variants = [Slow("slow", 2.0), Slow("fast", 1.0), Slow("slower", 3.0)]
    tried = Slow("tried", 2.0, variants)
    rows = [Row(row_id=n, category=category, prompt="ab") for n, category in enumerate("aaaaabbbbb")]
    with pytest.MonkeyPatch.context() as patched:
        methods = [METHODS[BASELINE](GIVEN), tried]
        patched.setattr("lookahead.bench.run.runner.make_methods", lambda *_: methods)
        plan = Plan(rows=rows, methods=(), given=GIVEN, settings=greedy(2))
        benchmark = run_benchmark(model, tokenizer, plan, clock=lambda: now)
    assert benchmark.trials["tried"] == {
        "chosen": "fast",
        "seconds": {"slow": 12.0, "fast": 6.0, "slower": 18.0},
        "prompts": 6,
    }
    assert tried.seen == 1  # it warms up as it is
    assert [variant.seen for variant in variants] == [6, 6 + 10, 6]  # one is measured
    assert all(list(result.runs) == ["transformers", "tried"] for result in benchmark.results[::2])


def test_prompt_lookup_is_the_best_of_three():
    method = METHODS["prompt-lookup"](GIVEN)
    assert method.name == "prompt-lookup"
    assert not method.batches
    assert [variant.name for variant in method.variants] == [f"prompt-lookup-{size}" for size in (5, 10, 20)]


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=lambda experiment: experiment.name)
def test_an_experiments_methods_exist_and_serve_its_batches(experiment):
    made = make_methods(experiment.methods, GIVEN)
    assert not experiment.batch_sizes or all(method.batches for method in made)
