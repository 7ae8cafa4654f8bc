"""Rows in batches: their calls, how they are measured, and memories that start anew for each size."""

import pytest
import torch

from helpers import tiny_models
from lookahead.bench.data.datasets import Row
from lookahead.bench.methods.method import Output
from lookahead.bench.methods.registry import make_methods
from lookahead.bench.run.cases import cases_of
from lookahead.bench.run.measuring import greedy
from lookahead.bench.run.runner import Plan, run_benchmark
from lookahead.config import LookaheadConfig
from research.bench.batches import batch_cases, measure_batch
from research.bench.peak_memory import MemoryMeter
from research.bench.running import run_experiment, shuffle_rows


@pytest.fixture(scope="module")
def model():
    return tiny_models.tiny_model("llama")


def test_a_batch_is_measured_without_its_padding():
    model = tiny_models.tiny_model("llama")

    class Answers:
        name = "answers"

        def generate(self, _model, inputs, *, settings, streamer):
            assert settings["max_new_tokens"] == 4
            assert streamer is None
            answers = torch.tensor([[5, end, 0, 0], [6, 7, 8, 9]])
            return Output(torch.cat([inputs["input_ids"], answers], dim=1))

    end = model.generation_config.eos_token_id or 2
    model.generation_config.eos_token_id = [end, 77]
    inputs = {"input_ids": torch.zeros((2, 3), dtype=torch.int64)}
    run = measure_batch(Answers(), model, inputs, settings=greedy(4))
    assert run.answers == ((5, end), (6, 7, 8, 9))
    assert run.output_ids == (5, end, 6, 7, 8, 9)
    assert (run.tokens, run.decode_tokens, run.steps, run.decode_s) == (6, 4, 4, 0.0)


def test_rows_become_full_batches_of_each_size_padded_on_the_left(model):
    rows = [Row(row_id=text, category="qa", prompt=text) for text in ("ab", "abcd", "a", "abc", "abcde")]
    alone = cases_of(rows, tiny_models.tiny_tokenizer(), model)
    cases = [case for size in (1, 2, 4) for case in batch_cases(alone, size, pad_token=0)]
    assert [case.category for case in cases] == ["batch 1"] * 5 + ["batch 2"] * 2 + ["batch 4"]
    pair, four = cases[5], cases[7]
    assert (pair.row_id, pair.width, pair.prompt_tokens) == ("ab+abcd", 4, 6)
    assert pair.inputs["attention_mask"].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert pair.prompts() == [[0, 1], [0, 1, 2, 3]]
    assert four.inputs["input_ids"].shape == (4, 4)


def test_batches_of_another_size_know_nothing_of_those_before(model):
    tokenizer = tiny_models.tiny_tokenizer()
    rows = [Row(row_id=text, category="qa", prompt=text) for text in ("ababab", "cdcdcd")]
    warm = [Row(row_id=9, category="qa", prompt="HelloHello", reference="xyzxyz")]
    config = LookaheadConfig(max_bytes=2**20, decoding_length=16)
    plan = Plan(
        cases=cases_of(rows, tokenizer, model),
        methods=make_methods(["lookahead"], config),
        settings=greedy(8),
        warm_rows=warm,
        config=config,
    )
    whole = run_experiment(model, tokenizer, plan, rows, {1: None, 2: None}, MemoryMeter())
    assert [result.category for result in whole.results] == ["batch 1", "batch 1", "batch 2"]
    steps = [result.runs["lookahead"].steps for result in whole.results]
    again = run_experiment(model, tokenizer, plan, rows, {2: None, 1: None}, MemoryMeter())
    assert [result.runs["lookahead"].steps for result in again.results] == [steps[2], *steps[:2]]
    alone = run_benchmark(model, tokenizer, plan).results
    assert [result.runs["lookahead"].steps for result in alone] == steps[:2]


def test_shuffled_rows_are_the_same_rows_in_an_order_that_the_seed_decides():
    rows = [Row(row_id=place, category="qa", prompt="p") for place in range(20)]
    mixed = shuffle_rows(rows, 1)
    assert mixed != rows
    assert sorted(mixed, key=lambda row: row.row_id) == rows
    assert shuffle_rows(rows, 1) == mixed != shuffle_rows(rows, 2)
