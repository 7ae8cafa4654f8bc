"""A method in several settings: the fastest one is measured, and an interrupted run remembers which."""

import pytest

from helpers import tiny_models
from lookahead.bench.data.datasets import Row
from lookahead.bench.methods.library import TransformersMethod
from lookahead.bench.methods.method import Method
from lookahead.bench.run.cases import cases_of
from lookahead.bench.run.journal import Journal
from lookahead.bench.run.measuring import greedy
from lookahead.bench.run.runner import Plan, run_benchmark
from research.bench.best_of import BestOf, run_trials

ROWS = [Row(row_id=n, category=category, prompt="ab") for n, category in enumerate("aaaaabbbbb")]
TRIAL = {"chosen": "fast", "seconds": {"slow": 12.0, "fast": 6.0, "slower": 18.0}, "prompts": 6}


@pytest.fixture
def model():
    return tiny_models.tiny_model("llama")


class Slow(Method):
    """Answers as `generate` does; the clock of the test goes on by some seconds."""

    now = 0.0

    def __init__(self, name, seconds):
        self.name, self.seconds, self.seen, self.memory = name, seconds, 0, []

    def generate(self, model, inputs, *, streamer, **_options):
        Slow.now += self.seconds
        self.seen += 1
        return TransformersMethod(self.name).generate(model, inputs, streamer=streamer, settings=greedy(2))

    def remember(self, token_ids):
        self.memory.append(token_ids)

    def recall(self, _prompt_ids, answer_ids):
        self.remember(answer_ids)

    def forget(self):
        self.memory = []


def tried():
    return BestOf("tried", [Slow("slow", 2.0), Slow("fast", 1.0), Slow("slower", 3.0)])


def plan_of(method, model):
    cases = cases_of(ROWS, tiny_models.tiny_tokenizer(), model)
    return Plan(cases=cases, methods=[TransformersMethod("transformers"), method], settings=greedy(2))


def test_the_fastest_variant_is_chosen_on_rows_of_every_category(model):
    method, tokenizer = tried(), tiny_models.tiny_tokenizer()
    plan = plan_of(method, model)
    trials = run_trials(plan, ROWS, model, tokenizer, clock=lambda: Slow.now)
    assert trials == {"tried": TRIAL}
    assert method.chosen.name == "fast"
    benchmark = run_benchmark(model, tokenizer, plan)
    seen = {name: variant.seen for name, variant in method.variants.items()}
    assert seen == {"slow": 1 + 6, "fast": 1 + 6 + 1 + 10, "slower": 1 + 6}  # each warms up; one is measured
    assert all(list(result.runs) == ["transformers", "tried"] for result in benchmark.results[::2])


def test_a_trial_is_not_repeated_after_an_interruption(model, tmp_path):
    tokenizer = tiny_models.tiny_tokenizer()
    journal = Journal(tmp_path / "journal", {})
    run_trials(plan_of(tried(), model), ROWS, model, tokenizer, journal, clock=lambda: Slow.now)
    method = tried()
    again = Journal(tmp_path / "journal", {})
    assert run_trials(plan_of(method, model), ROWS, model, tokenizer, again) == {"tried": TRIAL}
    assert method.chosen.name == "fast"
    assert all(variant.seen == 0 for variant in method.variants.values())


def test_the_chosen_method_has_the_memory(model):
    method = tried()
    method.chosen = method.variants["slower"]
    method.prepare(model, tiny_models.tiny_tokenizer())
    method.remember([1])
    method.recall([2], [3])
    assert method.variants["slower"].memory == [[1], [3]]
    method.forget()
    assert method.variants["slower"].memory == method.variants["slow"].memory == []
