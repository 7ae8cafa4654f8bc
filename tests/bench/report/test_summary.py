"""From measurements to figures."""

import json
from io import StringIO

import pytest
from rich.console import Console

from lookahead.bench.report.summary import summarise
from lookahead.bench.report.table_maker import times
from lookahead.bench.report.tables import category_table, difference_table, method_table
from lookahead.bench.run.measuring import Run
from lookahead.bench.run.results import BenchmarkResult, PromptResult
from lookahead.cli.setup import check_can_write
from lookahead.errors import NotFoundError


def run(output_ids, total_s, decode_s, steps, decode_tokens=None):
    tokens = tuple(output_ids)
    decode_tokens = len(tokens) - 1 if decode_tokens is None else decode_tokens
    return Run(
        answers=(tokens,), total_s=total_s, decode_tokens=decode_tokens, decode_s=decode_s, steps=steps
    )


@pytest.fixture
def benchmark_result():
    """Two categories: transformers 20 tokens in 4 s, Lookahead 20 in 2 s, prompt lookup 20 in 3.2 s."""
    first, other = range(10), range(50, 60)
    return BenchmarkResult(
        results=[
            PromptResult(
                row_id="a",
                category="rag",
                prompt_tokens=5,
                runs={
                    "lookahead": run(first, 0.5, 0.3, 3),
                    "transformers": run(first, 2.0, 1.8, 9),
                    "prompt-lookup": run(first, 1.0, 0.9, 4, decode_tokens=8),
                },
            ),
            PromptResult(
                row_id=7,
                category="qa",
                prompt_tokens=6,
                runs={
                    "transformers": run(other, 2.0, 1.8, 9),
                    "prompt-lookup": run(other, 2.2, 2.0, 9),
                    "lookahead": run([*other[:-1], 0], 1.5, 1.2, 6),
                },
            ),
        ],
        skipped=["long"],
    )


@pytest.fixture
def summary(benchmark_result):
    return summarise(benchmark_result)


def test_speeds_are_sums_of_tokens_over_sums_of_seconds(summary):
    assert summary["tokens_per_second"]["transformers"] == {
        "overall": 5.0,
        "by_category": {"rag": 5.0, "qa": 5.0},
    }
    assert summary["tokens_per_second"]["lookahead"]["overall"] == 10.0
    assert summary["decode_tokens_per_second"]["lookahead"]["overall"] == 12.0  # 18 in 1.5 s


def test_speedups_are_ratios_of_speeds(summary):
    assert summary["speedup"]["lookahead"] == {"overall": 2.0, "by_category": {"rag": 4.0, "qa": 1.3333}}
    assert summary["decode_speedup"]["lookahead"]["overall"] == 2.4  # 12 over 18 / 3.6
    assert summary["speedup_over_prompt_lookup"]["lookahead"]["overall"] == 1.6
    assert "transformers" not in summary["speedup"]
    assert list(summary["speedup_over_prompt_lookup"]) == ["lookahead"]


def test_acceptance_counts_forwards_after_prefill(summary):
    acceptance = summary["mean_acceptance_length"]
    assert acceptance["transformers"]["overall"] == 1.0
    assert acceptance["lookahead"] == {"overall": 2.0, "by_category": {"rag": 3.0, "qa": 1.5}}
    assert acceptance["prompt-lookup"]["by_category"]["rag"] == 2.0  # its first forward gave two tokens


def test_identical_compares_token_ids(summary):
    assert summary["identical"]["lookahead"] == {"overall": 1, "by_category": {"rag": 1, "qa": 0}}
    assert summary["identical"]["prompt-lookup"]["overall"] == 2
    assert summary["prompts"] == {"overall": 2, "by_category": {"rag": 1, "qa": 1}}


def test_the_raw_figures_are_there_without_the_text(summary):
    row = summary["per_prompt"][1]
    assert (row["id"], row["category"], row["prompt_tokens"]) == (7, "qa", 6)
    assert row["runs"]["lookahead"] == {
        "tokens": 10,
        "total_s": 1.5,
        "decode_tokens": 9,
        "decode_s": 1.2,
        "steps": 6,
        "first_token_s": None,
        "peak_bytes": None,
        "identical": False,
    }
    assert (summary["memory"], summary["skipped"], summary["interrupted"]) == ("cold", ["long"], False)


def test_without_prompt_lookup_nothing_is_compared_with_it(benchmark_result):
    for result in benchmark_result.results:
        del result.runs["prompt-lookup"]
    assert summarise(benchmark_result)["speedup_over_prompt_lookup"] == {}


def test_nothing_measured_gives_no_figures():
    summary = summarise(BenchmarkResult(interrupted=True))
    assert summary["speedup"] == {}
    assert summary["interrupted"]
    assert summary["prompts"]["overall"] == 0


def test_an_answer_of_one_token_has_no_decoding_figures():
    runs = {"transformers": run([1], 0.5, 0.0, 0), "lookahead": run([1], 0.25, 0.0, 0)}
    result = PromptResult(row_id=1, category="qa", prompt_tokens=3, runs=runs)
    summary = summarise(BenchmarkResult(results=[result]))
    assert summary["speedup"]["lookahead"]["overall"] == 2.0
    assert summary["decode_speedup"]["lookahead"]["overall"] is None
    assert summary["mean_acceptance_length"]["lookahead"]["overall"] is None
    json.dumps(summary, allow_nan=False)


def rendered(table):
    console = Console(file=StringIO(), width=80)
    console.print(table.as_rich())
    return console.file.getvalue()


def test_the_tables_show_the_figures(summary):
    by_method = rendered(method_table(summary))
    assert "…" not in by_method
    assert "2.00x" in by_method
    assert "1 of 2" in rendered(difference_table(summary))
    by_category = rendered(category_table(summary, "decode_speedup", "by category", times))
    line = next(line for line in by_category.splitlines() if line.startswith("lookahead"))
    assert line.split() == ["lookahead", "6.00x", "1.50x"]


def test_an_impossible_place_for_the_report_is_refused_at_once(tmp_path):
    check_can_write(tmp_path / "report.json")
    for path in (tmp_path, tmp_path / "nowhere" / "report.json"):
        with pytest.raises(NotFoundError, match="cannot write"):
            check_can_write(path)
