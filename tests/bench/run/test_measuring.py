"""Waits, differences, intervals: what a figure is made of."""

import numpy as np
import pytest
import torch

from helpers import tiny_models
from lookahead.bench.data.datasets import Row
from lookahead.bench.methods.method import Output
from lookahead.bench.report.table_maker import FigureTable
from lookahead.bench.report.uncertainty import Amount, speed, speed_ratio_interval
from lookahead.bench.run.cases import cases_of
from lookahead.bench.run.differences import Verdict, first_difference, judge_difference, rounding_step
from lookahead.bench.run.measuring import TimingStreamer, greedy, measure


@pytest.fixture(scope="module")
def model():
    return tiny_models.tiny_model("llama")


def streamed(*pieces):
    """A streamer that was given pieces of so many tokens at these times."""
    times = iter(at for at, _ in pieces)
    streamer = TimingStreamer(clock=lambda: next(times))
    streamer.put(torch.zeros(1, 3))
    for _, tokens in pieces:
        streamer.put(torch.zeros(tokens))
    return streamer


def test_each_later_token_has_its_wait_and_those_that_come_together_none():
    assert streamed((1.0, 1), (1.5, 1), (3.5, 3), (4.0, 1)).waits_s == (0.5, 2.0, 0.0, 0.0, 0.5)
    assert streamed((1.0, 2), (2.0, 1)).waits_s == (0.0, 1.0)
    assert streamed((1.0, 1)).waits_s == streamed().waits_s == ()


def test_a_batch_is_measured_without_its_padding():
    model = tiny_models.tiny_model("llama")

    class Answers:
        name, batches = "answers", True

        def generate(self, _model, inputs, *, settings, streamer):
            assert settings["max_new_tokens"] == 4
            assert streamer is None
            answers = torch.tensor([[5, end, 0, 0], [6, 7, 8, 9]])
            return Output(torch.cat([inputs["input_ids"], answers], dim=1))

    end = model.generation_config.eos_token_id or 2
    model.generation_config.eos_token_id = [end, 77]
    inputs = {"input_ids": torch.zeros((2, 3), dtype=torch.int64)}
    run = measure(Answers(), model, inputs, settings=greedy(4))
    assert run.answers == ((5, end), (6, 7, 8, 9))
    assert run.output_ids == (5, end, 6, 7, 8, 9)
    assert (run.tokens, run.decode_tokens, run.steps, run.decode_s) == (6, 4, 4, 0.0)


def test_rows_become_full_batches_of_each_size_padded_on_the_left(model):
    rows = [Row(row_id=text, category="qa", prompt=text) for text in ("ab", "abcd", "a", "abc", "abcde")]
    cases = cases_of(rows, tiny_models.tiny_tokenizer(), model, (1, 2, 4))
    assert [case.category for case in cases] == ["batch 1"] * 5 + ["batch 2"] * 2 + ["batch 4"]
    assert [place for place, case in enumerate(cases) if case.begins_anew] == [0, 5, 7]
    pair, four = cases[5], cases[7]
    assert (pair.row_id, pair.width, pair.prompt_tokens) == ("ab+abcd", 4, 6)
    assert pair.inputs["attention_mask"].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert pair.prompts() == [[0, 1], [0, 1, 2, 3]]
    assert four.inputs["input_ids"].shape == (4, 4)


def test_the_first_difference_is_found():
    assert first_difference((1, 2, 3), (1, 2, 3)) is None
    assert first_difference((1, 2, 3), (1, 5, 3)) == 1
    assert first_difference((1, 2, 3), (1, 2)) == 2
    assert first_difference((), (1,)) == 0


def test_a_clear_lead_is_an_error_and_a_small_one_a_near_tie(model):
    prompt = tiny_models.prompt(3)
    reference = model.generate(prompt, do_sample=False, max_new_tokens=4)[0, prompt.shape[1] :].tolist()
    at = torch.cat([prompt, torch.tensor([reference[:2]])], dim=1)
    with torch.inference_mode():
        logits = model(at).logits[0, -1]
    other = int(logits.argmin())
    found = judge_difference(model, prompt, reference, [*reference[:2], other, 5])
    assert (found.position, found.verdict) == (2, Verdict.ERROR)
    assert found.margin_at_difference == pytest.approx(float(logits.max() - logits.min()), rel=1e-4)
    assert judge_difference(model, prompt, reference, reference) is None
    cut = judge_difference(model, prompt, reference, reference[:2])
    assert (cut.position, cut.verdict, cut.margin_at_difference) == (2, Verdict.ERROR, None)
    tie = judge_difference(model, prompt, [*reference[:2], other], [*reference[:2], int(logits.argmax())])
    assert (tie.verdict, tie.margin_at_difference) == (Verdict.NEAR_TIE, 0.0)


def test_a_lead_that_the_dtype_cannot_hold_is_a_near_tie():
    class Close:
        def __init__(self, dtype, margin, largest=20.0, others=-20.0):
            self.dtype = dtype
            self.logits = (torch.tensor([[largest, largest - margin, others, others, others]]),)

        def generate(self, **_inputs):
            return self

    assert rounding_step(20.0, torch.bfloat16) == 0.125
    assert rounding_step(20.0, torch.float32) == 2.0**-19
    prompt = torch.tensor([[1]])
    cases = ((torch.bfloat16, 0.5), (torch.bfloat16, 0.625), (torch.float32, 1e-4), (torch.float32, 2e-4))
    verdicts = [judge_difference(Close(*case), prompt, [0], [1]).verdict for case in cases]
    assert verdicts == [Verdict.NEAR_TIE, Verdict.ERROR] * 2
    near_zero = Close(torch.bfloat16, 0.25, largest=0.01)
    assert judge_difference(near_zero, prompt, [0], [1]).verdict is Verdict.NEAR_TIE, "the others are large"
    small = Close(torch.bfloat16, 0.25, largest=0.01, others=-0.5)
    assert judge_difference(small, prompt, [0], [1]).verdict is Verdict.ERROR


def amounts(*tokens_and_seconds):
    return [Amount(tokens, seconds) for tokens, seconds in tokens_and_seconds]


def test_an_interval_holds_the_ratio_and_is_the_same_every_time():
    generator = np.random.default_rng(1)
    theirs = [Amount(50, seconds) for seconds in generator.uniform(1, 4, 30)]
    ours = [
        Amount(50, amount.seconds / ratio)
        for amount, ratio in zip(theirs, generator.normal(2, 0.2, 30), strict=True)
    ]
    low, high = speed_ratio_interval([ours], [theirs])
    assert low < speed(ours) / speed(theirs) < high
    assert 1.8 < low < high < 2.2
    assert speed_ratio_interval([ours], [theirs]) == (low, high)
    assert speed_ratio_interval([ours, theirs], [theirs, ours]) == pytest.approx((1.0, 1.0))


def test_the_same_ratio_on_every_prompt_is_certain_and_two_prompts_are_too_few():
    theirs, ours = amounts((10, 2), (20, 6), (5, 1)), amounts((10, 1), (20, 3), (5, 0.5))
    assert speed_ratio_interval([ours], [theirs]) == pytest.approx((2.0, 2.0))
    assert speed_ratio_interval([ours[:2]], [theirs[:2]]) is None
    nothing = amounts((0, 0), (0, 0), (0, 0))
    assert speed_ratio_interval([nothing], [nothing]) is None
    assert speed(nothing) is None


def test_a_table_is_markdown_as_well():
    table = FigureTable("Speed", ("method", "tokens\na second"), (("plain", "2.0"),))
    assert table.as_markdown() == (
        "**Speed**\n\n| method | tokens a second |\n| --- | ---: |\n| plain | 2.0 |\n"
    )
