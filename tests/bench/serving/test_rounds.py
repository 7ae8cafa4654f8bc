"""Rounds of scripted methods with a simulated clock; their summary and tables."""

import pytest

from helpers import tiny_models
from lookahead.bench.data.datasets import Row
from lookahead.bench.run.cases import cases_of
from lookahead.bench.run.journal import Journal
from lookahead.bench.serving import rounds
from lookahead.bench.serving.arrivals import Arrivals
from lookahead.bench.serving.engines import Drafts
from lookahead.bench.serving.methods import Served
from lookahead.bench.serving.registry import BASELINE, NOISE, engine_name, make_serving_methods
from lookahead.bench.serving.rounds import ServingPlan, run_serving
from lookahead.bench.serving.summary import speed_ratio, summarise_serving
from lookahead.bench.serving.tables import serving_tables, words_about_serving
from lookahead.config import LookaheadConfig
from lookahead.errors import ConfigError

OFF, WARM = engine_name(Drafts.OFF, 2), engine_name(Drafts.WARM, 2)


@pytest.fixture(scope="module")
def served():
    model, tokenizer = tiny_models.tiny_model("llama"), tiny_models.tiny_tokenizer()
    return Served(model=model, tokenizer=tokenizer, config=LookaheadConfig(max_bytes=2**20))


def planned(served, methods, count=3, **more):
    texts = [Row(row_id=index, category="qa", prompt="abcd") for index in range(2)]
    cases = cases_of(texts, served.tokenizer, served.model)
    return ServingPlan(cases=cases, methods=methods, rounds=count, max_new_tokens=4, **more)


def summarised(result, methods):
    return {**summarise_serving(result, [method.name for method in methods], [2]), "skipped": []}


def test_each_round_has_every_method_in_a_rotated_order_and_ratios_are_paired(served, timer, scripted):
    methods = [scripted(BASELINE, 0.2), scripted(OFF, 0.1), scripted(WARM, 0.025)]
    done = []
    result = run_serving(planned(served, methods), served, timer=timer, on_done=lambda: done.append(1))
    assert [list(figures) for figures in result.rounds] == [
        [BASELINE, OFF, WARM],
        [OFF, WARM, BASELINE],
        [WARM, BASELINE, OFF],
    ]
    assert len(done) == 9
    summary = summarised(result, methods)
    assert summary["methods"][BASELINE]["speedup"] is None
    assert summary["methods"][OFF]["speedup"] == {"median": 2.0, "interval": [2.0, 2.0], "rounds": 3}
    assert summary["drafts"]["2"]["warm_over_off"]["median"] == 4.0
    assert summary["drafts"]["2"]["cold_over_off"] is None
    assert summary["methods"][OFF]["wall_s"] == pytest.approx(0.8)
    speed, waiting, drafts = serving_tables(summary)
    assert [row[0] for row in speed.rows] == [row[0] for row in waiting.rows] == [BASELINE, OFF, WARM]
    assert drafts.rows == (("2", "-", "-", "4.00x", "4.00-4.00"),)
    assert words_about_serving(summary) == []


def test_every_method_of_a_round_has_the_same_arrivals(served, timer, scripted):
    methods = [scripted(BASELINE, 0.1), scripted("generate", 0.1)]
    plan = planned(served, methods, arrivals=Arrivals.POISSON, rate=3.0, seed=5)
    run_serving(plan, served, timer=timer)
    ours, theirs = ([load.arrivals for load in method.calls] for method in methods)
    assert ours == theirs
    assert ours[0] == [0.0, 0.0], "the first answers set everything up"
    assert ours[1] != ours[2]
    assert all(len(answer) == 4 for answer in methods[0].calls[1].known)


@pytest.mark.parametrize(("fails_at", "rounds_before"), [(0, 0), (2, 1)])
def test_a_method_that_fails_is_reported_and_not_tried_again(
    served, timer, scripted, fails_at, rounds_before
):
    methods = [scripted(BASELINE, 0.2), scripted("continuous-batching-2", 0.1, fails_at=fails_at)]
    result = run_serving(planned(served, methods), served, timer=timer)
    assert result.failed == {"continuous-batching-2": "NotImplementedError: no such attention"}
    assert len(methods[1].calls) == fails_at + 1
    assert sum("continuous-batching-2" in figures for figures in result.rounds) == rounds_before
    words = words_about_serving(summarised(result, methods))
    assert words == ["failed: continuous-batching-2: NotImplementedError: no such attention"]


def test_texts_that_differ_are_counted_and_judged_once(served, timer, scripted, monkeypatch):
    judged = []
    real = rounds.judge_difference

    def counted(*given):
        judged.append(given)
        return real(*given)

    monkeypatch.setattr(rounds, "judge_difference", counted)
    methods = [scripted(BASELINE, 0.2), scripted(OFF, 0.1, changes=True)]
    result = run_serving(planned(served, methods), served, timer=timer)
    summary = summarised(result, methods)
    assert (summary["methods"][BASELINE]["differing"], summary["methods"][OFF]["differing"]) == (0, 6)
    assert len(judged) == 2, "one for each prompt"
    assert summary["methods"][OFF]["errors"] == 6
    assert words_about_serving(summary) == [
        f"ERROR: 6 answers of {OFF} differ where rounding does not explain it"
    ]


def test_an_interrupted_run_goes_on_with_the_next_round(served, timer, scripted, tmp_path):
    class Stops(scripted):
        def serve(self, load):
            if len(self.calls) == 2:
                raise KeyboardInterrupt
            return super().serve(load)

    path = tmp_path / "journal"
    stopping = [scripted(BASELINE, 0.2), Stops("generate", 0.1), scripted("bad", 1, fails_at=0)]
    stopped = run_serving(planned(served, stopping), served, timer=timer, journal=Journal(path, {}))
    assert (stopped.interrupted, len(stopped.rounds)) == (True, 1)
    methods = [scripted(BASELINE, 0.2), scripted("generate", 0.1), scripted("bad", 1)]
    result = run_serving(planned(served, methods), served, timer=timer, journal=Journal(path, {}))
    assert (result.interrupted, result.resumed, len(result.rounds)) == (False, 1, 3)
    assert result.rounds[0] == stopped.rounds[0]
    assert (list(result.failed), methods[2].calls) == (["bad"], [])
    again = run_serving(planned(served, methods), served, timer=timer, journal=Journal(path, {}))
    assert again.rounds == result.rounds


def test_a_ratio_needs_both_and_an_interval_three_rounds():
    figures = [{"a": {"tokens_per_second": 3.0}, "b": {"tokens_per_second": 2.0}}, {"a": {}}]
    assert speed_ratio(figures, "a", "b") == {"median": 1.5, "interval": None, "rounds": 1}
    assert speed_ratio(figures, "a", "c") is None


def test_methods_by_name(served):
    def names(*given, rows=(1, 2), **more):
        return [method.name for method in make_serving_methods(given, rows, served, **more)]

    assert names("engine-cold", "generate-batch") == [
        BASELINE,
        "engine-cold-1",
        "generate-batch-2",
        "engine-cold-2",
    ]
    assert NOISE not in names()
    assert NOISE in names(noise=True)
    assert len(names()) == 2 + 4 + 5
    with pytest.raises(ConfigError, match=r"choose from la\.generate"):
        names("vllm")


def test_a_padded_batch_counts_no_padding_after_an_end(served):
    ending = Served(model=tiny_models.tiny_model("llama"), tokenizer=served.tokenizer, config=served.config)
    load = planned(served, []).load(0, (), rounds.RealTimer())
    longer, end = batched(served).serve(load).answers[0], 1
    ending.model.generation_config.eos_token_id = longer[end]
    found = batched(ending).serve(load).timelines[0]
    assert found.answer == longer[: longer.index(longer[end]) + 1]
    assert [tokens for _, tokens in found.events] == [1] * len(found.answer)


def batched(served):
    return make_serving_methods(["generate-batch"], [2], served)[-1]
