"""Measuring every method on every prompt."""

from dataclasses import replace

import pytest
import torch

from helpers import tiny_models
from lookahead.bench.data.datasets import Row, random_rows
from lookahead.bench.methods.method import Method, Output
from lookahead.bench.methods.registry import METHODS, USUAL, Ingredients, make_methods
from lookahead.bench.run import runner
from lookahead.bench.run.environment import describe_environment, physical_cores
from lookahead.bench.run.measuring import TimingStreamer, greedy, measure, sampled
from lookahead.bench.run.runner import Plan, run_benchmark
from lookahead.config import DraftMode, LookaheadConfig
from lookahead.drafting.store import Origin
from lookahead.errors import ConfigError
from lookahead.hf.models.loading import encode_prompt

CONFIG = LookaheadConfig(max_bytes=2**20)
GIVEN = Ingredients(config=CONFIG)


def plan(prompts, settings, *, config=CONFIG, methods=(), **more):
    given = Ingredients(config=config)
    return Plan(rows=prompts, methods=methods, given=given, settings=settings, **more)


@pytest.fixture(scope="module")
def model():
    return tiny_models.tiny_model("llama")


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_models.tiny_tokenizer()


def rows(*prompts):
    return [Row(row_id=index, category="qa", prompt=prompt) for index, prompt in enumerate(prompts)]


class ScriptedMethod(Method):
    """Streams given pieces after the prompt."""

    name = "scripted"

    def __init__(self, *pieces, steps=None):
        self.pieces = pieces
        self.steps = steps
        self.forgotten = 0

    def generate(self, _model, inputs, *, streamer, **_options):
        streamer.put(inputs["input_ids"])
        for piece in self.pieces:
            streamer.put(torch.tensor(piece))
        streamer.end()
        answer = torch.tensor([[token for piece in self.pieces for token in piece]], dtype=torch.int64)
        return Output(torch.cat([inputs["input_ids"], answer], dim=1), steps=self.steps)

    def forget(self):
        self.forgotten += 1


class Recorder:
    def __init__(self):
        self.calls = []

    def put(self, value):
        self.calls.append(value.tolist())

    def end(self):
        self.calls.append("end")


INPUTS = {"input_ids": torch.tensor([[5, 6, 7]])}


def test_decoding_is_counted_after_the_first_forwards_tokens(model):
    run = measure(ScriptedMethod([1, 2], [3], [4, 5, 6]), model, INPUTS, settings=greedy(9))
    assert run.output_ids == (1, 2, 3, 4, 5, 6)
    assert (run.tokens, run.decode_tokens, run.steps) == (6, 4, 2)
    assert 0 < run.decode_s < run.total_s


def test_a_method_that_counts_its_forwards_is_believed(model):
    run = measure(ScriptedMethod([1], [2], [3], steps=1), model, INPUTS, settings=greedy(9))
    assert (run.decode_tokens, run.steps) == (2, 1)


def test_an_answer_that_ends_at_once_has_no_decoding(model):
    run = measure(ScriptedMethod([2]), model, INPUTS, settings=greedy(9))
    assert (run.tokens, run.decode_tokens, run.steps) == (1, 0, 0)
    nothing = measure(ScriptedMethod(), model, INPUTS, settings=greedy(9))
    assert (nothing.tokens, nothing.decode_tokens, nothing.decode_s, nothing.steps) == (0, 0, 0.0, 0)


def test_the_timing_streamer_passes_everything_on():
    recorder = Recorder()
    streamer = TimingStreamer(recorder)
    streamer.put(torch.tensor([[1, 2]]))
    assert streamer.first_token_at is None
    streamer.put(torch.tensor([3]))
    streamer.end()
    assert recorder.calls == [[[1, 2]], [3], "end"]
    assert streamer.first_token_at is not None


def test_every_method_gives_the_text_of_transformers(model, tokenizer):
    fixed = replace(CONFIG, decoding_length=16)  # an automatic size depends on what is measured
    benchmark = run_benchmark(
        model, tokenizer, plan(rows("HelloHelloHello", "abcabcab"), greedy(24), config=fixed)
    )
    assert len(benchmark.results) == 2
    for result in benchmark.results:
        assert set(result.runs) == set(USUAL)
        reference = result.runs["transformers"]
        assert reference.steps == 23
        assert all(run.output_ids == reference.output_ids for run in result.runs.values())
    plain, drafted = (
        sum(result.runs[name].steps for result in benchmark.results)
        for name in ("lookahead-plain", "lookahead")
    )
    assert plain == 46
    assert drafted < plain


def test_the_memory_starts_empty_and_grows_from_row_to_row(model, tokenizer):
    fixed = replace(CONFIG, decoding_length=16)  # an automatic size would depend on what was measured before
    lookahead = METHODS["lookahead"](Ingredients(config=fixed))
    runner.warm_up([lookahead], model, tokenizer)
    inputs = runner.encode_prompt(tokenizer, "HelloHello", model)
    after_warm_up = measure(lookahead, model, inputs, settings=greedy(24)).steps
    again = measure(lookahead, model, inputs, settings=greedy(24)).steps
    fresh = measure(METHODS["lookahead"](Ingredients(config=fixed)), model, inputs, settings=greedy(24)).steps
    assert after_warm_up == fresh
    assert again < fresh


def test_the_order_of_the_methods_rotates(model, tokenizer, monkeypatch):
    order = []
    named = [ScriptedMethod([1]) for _ in range(3)]
    for method, name in zip(named, ("transformers", "b", "c"), strict=True):
        method.name = name
    monkeypatch.setattr(runner, "make_methods", lambda *_: named)
    real = runner.measure
    monkeypatch.setattr(
        runner, "measure", lambda method, *args, **kw: order.append(method.name) or real(method, *args, **kw)
    )
    done = []
    run_benchmark(
        model,
        tokenizer,
        plan(rows("a", "b", "c", "d"), greedy(4)),
        on_row_done=lambda: done.append(True),
    )
    letters = "".join(name[0] for name in order)
    assert letters == "tbc" + "tbc" + "bct" + "ctb" + "tbc"  # the warm-up first
    assert [method.forgotten for method in named] == [2, 2, 2]  # after the warm-up, and before the first row
    assert len(done) == 4


def test_a_row_too_long_for_the_context_is_skipped_and_named(model, tokenizer):
    longest = model.config.max_position_embeddings - 8
    benchmark = run_benchmark(
        model,
        tokenizer,
        plan(rows("a" * (longest + 1), "a" * longest), greedy(8), methods=["lookahead-plain"]),
    )
    assert benchmark.skipped == [0]
    assert [result.row_id for result in benchmark.results] == [1]


def test_an_interruption_keeps_what_was_measured(model, tokenizer):
    def interrupt():
        raise KeyboardInterrupt

    benchmark = run_benchmark(
        model,
        tokenizer,
        plan(rows("abc", "def"), greedy(4), methods=["lookahead-plain"]),
        on_row_done=interrupt,
    )
    assert benchmark.interrupted
    assert [result.row_id for result in benchmark.results] == [0]


def test_transformers_is_always_measured_and_each_method_once():
    names = [method.name for method in make_methods(["lookahead", "transformers", "lookahead"], GIVEN)]
    assert names == ["transformers", "lookahead"]
    assert [method.name for method in make_methods([], GIVEN)] == list(USUAL)


def test_an_unknown_method_is_refused():
    with pytest.raises(ConfigError, match="'magic' is unknown; choose from transformers, transformers-again"):
        make_methods(["magic"], GIVEN)


def test_the_environment_says_what_a_figure_depends_on(model):
    environment = describe_environment(model, "tiny", 0.5)
    assert environment["dtype"] == "float32"
    assert environment["model"] == "tiny"
    assert environment["load_average_at_start"] == 0.5
    assert environment["threads"] == torch.get_num_threads()
    assert all(environment[name] for name in ("python", "torch", "transformers", "numba", "cpu", "lookahead"))
    assert physical_cores() >= 1


@pytest.mark.parametrize("reference", [None, "abcabcabcabc"])
def test_warm_rows_are_known_before_the_first_measured_one(model, tokenizer, reference, monkeypatch):
    remembered = []
    monkeypatch.setattr(
        "lookahead.bench.methods.lookahead.LookaheadMethod.remember",
        lambda _self, ids: remembered.append(list(ids)),
    )
    warm = [Row(row_id=9, category="qa", prompt="HelloHello", reference=reference)]
    done = []
    benchmark = run_benchmark(
        model,
        tokenizer,
        plan(rows("abcabcab"), greedy(6), methods=["lookahead-4"], warm_rows=warm),
        on_row_done=lambda: done.append(1),
    )
    assert benchmark.warmed
    assert len(done) == 2
    if reference is None:
        inputs = encode_prompt(tokenizer, "HelloHello", model)
        answer = model.generate(**inputs, **greedy(6))[0, inputs["input_ids"].shape[1] :]
        assert remembered == [answer.tolist()]
    else:
        assert remembered == [tokenizer(reference, add_special_tokens=False)["input_ids"]]


def test_every_method_draws_the_same_at_random(model, tokenizer):
    result = run_benchmark(
        model,
        tokenizer,
        plan(random_rows(["ab", "cd", "ef"], 2), sampled(12, 1.5), methods=["lookahead", "lookahead-1"]),
    ).results[1]
    assert result.category == "random-words"
    assert len({run.output_ids for run in result.runs.values()}) == 1


def test_a_method_that_knows_the_vocabulary_drafts_from_the_start(model, tokenizer):
    method = METHODS["lookahead-vocabulary"](GIVEN)
    method.prepare(model, tokenizer)
    memory = method._lookahead.memory
    assert memory.namespaces == {}
    drafts = memory.store
    drafts.insert("now", [5], Origin.PROMPT)
    assert len(drafts.propose("now", decoding_length=9, branch_length=2, mode=DraftMode.HIERARCHICAL)) == 9


def test_batches_of_another_size_know_nothing_of_those_before(model, tokenizer):
    warm = [Row(row_id=9, category="qa", prompt="HelloHello", reference="xyzxyz")]
    fixed = replace(CONFIG, decoding_length=16)
    asked = plan(rows("ababab", "cdcdcd"), greedy(8), config=fixed, methods=["lookahead"], warm_rows=warm)
    sizes = [1, 1]
    first, second, *again = run_benchmark(model, tokenizer, replace(asked, batch_sizes=sizes)).results
    assert [result.runs["lookahead"].steps for result in again] == [
        first.runs["lookahead"].steps,
        second.runs["lookahead"].steps,
    ]
    (one, two) = run_benchmark(model, tokenizer, asked).results
    assert one.runs["lookahead"].steps == first.runs["lookahead"].steps
    assert two.runs["lookahead"].steps == second.runs["lookahead"].steps
