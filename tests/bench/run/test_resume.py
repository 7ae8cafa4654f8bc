"""A run that was killed half-way and goes on gives the report of one that was not."""

import json

import pytest
import torch

from helpers import tiny_models
from lookahead.bench.data.datasets import Row
from lookahead.bench.methods import registry
from lookahead.bench.methods.method import Method, Output
from lookahead.bench.methods.registry import Ingredients
from lookahead.bench.report.summary import summarise
from lookahead.bench.run import runner
from lookahead.bench.run.journal import Journal, journal_beside
from lookahead.bench.run.measuring import greedy
from lookahead.bench.run.runner import Plan, run_benchmark
from lookahead.config import LookaheadConfig
from lookahead.errors import ConfigError, DataFormatError
from research.ablations import ABLATED_METHODS

ROWS = [Row(row_id=place, category="qa", prompt=text) for place, text in enumerate(("ab", "cd", "ef", "gh"))]
GIVEN = Ingredients(config=LookaheadConfig(max_bytes=2**20))


class Learner(Method):
    """Answers with what the prompt says; the more it remembers, the fewer forwards it says it took."""

    def __init__(self, name, *, fails_on=None, variants=()):
        self.name = name
        self.variants = variants
        self.memory = []
        self.fails_on = fails_on

    def generate(self, _model, inputs, *, streamer, **_options):
        prompt = inputs["input_ids"][0].tolist()
        if prompt == self.fails_on:
            message = "no such luck"
            raise RuntimeError(message)
        answer = [token + 1 for token in prompt] * 3
        streamer.put(inputs["input_ids"])
        for token in answer:
            streamer.put(torch.tensor([token]))
        streamer.end()
        self.remember(answer)
        return Output(torch.tensor([prompt + answer]), steps=9 - min(5, len(self.memory)))

    def remember(self, token_ids):
        self.memory.append(list(token_ids))

    def recall(self, _prompt_ids, answer_ids):
        self.remember(answer_ids)

    def forget(self):
        self.memory = []


class Ticking:
    """A clock that goes on by a second whenever it is asked."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1
        return self.now


@pytest.fixture(scope="module")
def model():
    return tiny_models.tiny_model("llama")


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_models.tiny_tokenizer()


@pytest.fixture
def made(monkeypatch):
    """The methods of the next run: one fails on the third row, one has settings to choose from."""
    fails_on = tiny_models.tiny_tokenizer()("ef")["input_ids"]

    def make(*_):
        return [
            Learner("transformers"),
            Learner("tried", variants=[Learner("tried-a"), Learner("tried-b")]),
            Learner("lookahead", fails_on=fails_on),
        ]

    monkeypatch.setattr(runner, "make_methods", make)


def plan(**changes):
    return Plan(**{"rows": ROWS, "methods": (), "given": GIVEN, "settings": greedy(6), **changes})


def report(benchmark):
    summary = summarise(benchmark)
    summary.pop("resumed_prompts")
    return json.loads(json.dumps(summary))


def kill_after(rows):
    left = iter(range(rows - 1))

    def on_row_done():
        if next(left, None) is None:
            raise KeyboardInterrupt

    return on_row_done


@pytest.mark.parametrize("rows_before", [1, 2, 3, 4])
@pytest.mark.usefixtures("made")
def test_a_killed_run_goes_on_to_the_same_report(model, tokenizer, tmp_path, rows_before):
    path = journal_beside(tmp_path / "report.json")
    about = {"data": "rows", "methods": ["lookahead"]}
    whole = run_benchmark(model, tokenizer, plan(), clock=Ticking())
    killed = run_benchmark(
        model,
        tokenizer,
        plan(),
        journal=Journal(path, about),
        on_row_done=kill_after(rows_before),
        clock=Ticking(),
    )
    assert killed.interrupted
    done = []
    resumed = run_benchmark(
        model,
        tokenizer,
        plan(),
        journal=Journal(path, about),
        on_row_done=lambda: done.append(1),
        clock=Ticking(),
    )
    assert report(resumed) == report(whole)
    assert resumed.resumed_prompts == rows_before
    assert len(done) == len(ROWS)
    assert whole.failed[0].row_id == 2
    assert whole.failed[0].error == "RuntimeError: no such luck"
    assert [result.row_id for result in resumed.results] == [0, 1, 3]
    assert resumed.trials["tried"]["prompts"] == len(ROWS)


@pytest.mark.usefixtures("made")
def test_what_was_measured_is_not_measured_again(model, tokenizer, tmp_path):
    path = tmp_path / "journal"
    run_benchmark(model, tokenizer, plan(), journal=Journal(path, {}), clock=Ticking())
    clock = Ticking()
    again = run_benchmark(model, tokenizer, plan(), journal=Journal(path, {}), clock=clock)
    warm_up_only = Ticking()
    run_benchmark(model, tokenizer, plan(rows=[]), clock=warm_up_only)
    assert clock.now == warm_up_only.now == 0.0  # the warm-up is not timed by it
    assert len(again.results) == 3


@pytest.mark.parametrize("name", ["lookahead", "lookahead-trie", "lookahead-log-without-elimination"])
def test_a_memory_is_given_the_answers_that_were_recorded(model, tokenizer, tmp_path, monkeypatch, name):
    real = registry.make_methods
    for ablated, make in ABLATED_METHODS.items():
        monkeypatch.setitem(registry.METHODS, ablated, make)

    def memory_after(journal, rows):
        made = []
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(runner, "make_methods", lambda *given: made.append(real(*given)) or made[-1])
            run_benchmark(model, tokenizer, plan(rows=rows, methods=(name,)), journal=journal)
        held = made[0][-1]._lookahead.memory.store.snapshot()
        return {
            key: held[key].tolist() for key in ("tokens", "owners", "token", "parent", "seen") if key in held
        }

    path = tmp_path / "journal"
    told = memory_after(None, ROWS)
    memory_after(Journal(path, {}), ROWS[:2])
    assert memory_after(Journal(path, {}), ROWS) == told


def test_another_run_does_not_continue_a_journal(tmp_path):
    path = tmp_path / "journal"
    Journal(path, {"seed": 0, "rows": 4}).append({"outcome": "Skipped", "row_id": 1})
    assert Journal(path, {"seed": 0, "rows": 4}).entries == [{"outcome": "Skipped", "row_id": 1}]
    with pytest.raises(ConfigError, match=r"seed=0, not 1; .* delete the file"):
        Journal(path, {"seed": 1, "rows": 4})


def test_half_a_line_is_dropped_and_the_next_one_whole(tmp_path):
    path = tmp_path / "journal"
    Journal(path, {}).append({"n": 1})
    with path.open("a") as file:
        file.write('{"n": 2, "cut')
    journal = Journal(path, {})
    assert journal.entries == [{"n": 1}]
    journal.append({"n": 3})
    assert Journal(path, {}).entries == [{"n": 1}, {"n": 3}]


@pytest.mark.parametrize("content", ["{oops\n", '{"kind": "something else"}\n', "[1]\n"])
def test_what_is_no_journal_is_refused_and_kept(tmp_path, content):
    path = tmp_path / "journal"
    path.write_text(content)
    with pytest.raises(DataFormatError, match="no journal"):
        Journal(path, {})
    assert path.read_text() == content


def test_a_finished_journal_leaves_nothing(tmp_path):
    path = tmp_path / "journal"
    journal = Journal(path, {})
    journal.remove()
    assert list(tmp_path.iterdir()) == []
