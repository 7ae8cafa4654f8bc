"""From measurements to figures: by method, overall and by category. Speeds are Σ tokens ÷ Σ seconds."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from lookahead.bench.measuring import Run
from lookahead.bench.methods import BASELINE, PROMPT_LOOKUP
from lookahead.bench.runner import BenchmarkResult, PromptResult

Figure = float | int | None
ByCategory = dict[str, Any]  # {"overall": figure, "by_category": {category: figure}}


def summarise(benchmark: BenchmarkResult) -> dict[str, Any]:
    """Every figure of a benchmark, as JSON can hold them; None where nothing was measured.

    Each figure is `{method: {"overall": …, "by_category": {category: …}}}`. Speedups are ratios of speeds.
    """
    results = benchmark.results
    methods = list(results[0].runs) if results else []
    methods.sort(key=lambda name: name != BASELINE)
    others = [name for name in methods if name != BASELINE]
    ahead = [name for name in others if name != PROMPT_LOOKUP] if PROMPT_LOOKUP in methods else []
    return {
        "prompts": _grouped(results, len),
        "speedup": _each(others, results, _ratio(tokens_per_second, BASELINE)),
        "decode_speedup": _each(others, results, _ratio(decode_tokens_per_second, BASELINE)),
        "speedup_over_prompt_lookup": _each(ahead, results, _ratio(tokens_per_second, PROMPT_LOOKUP)),
        "decode_speedup_over_prompt_lookup": _each(
            ahead, results, _ratio(decode_tokens_per_second, PROMPT_LOOKUP)
        ),
        "tokens_per_second": _each(methods, results, tokens_per_second),
        "decode_tokens_per_second": _each(methods, results, decode_tokens_per_second),
        "mean_acceptance_length": _each(methods, results, mean_acceptance_length),
        "identical": _each(others, results, identical_prompts),
        "memory": "warm" if benchmark.warmed else "cold",  # before the first row; it grows from row to row
        "interrupted": benchmark.interrupted,
        "skipped": benchmark.skipped,
        "per_prompt": [_per_prompt(result) for result in results],
    }


def tokens_per_second(results: Sequence[PromptResult], method: str) -> Figure:
    """End to end: all tokens ÷ all seconds."""
    runs = _runs(results, method)
    return _quotient(sum(run.tokens for run in runs), sum(run.total_s for run in runs))


def decode_tokens_per_second(results: Sequence[PromptResult], method: str) -> Figure:
    """Decoding alone: tokens after the first forward's ÷ seconds after the first token."""
    runs = _runs(results, method)
    return _quotient(sum(run.decode_tokens for run in runs), sum(run.decode_s for run in runs))


def mean_acceptance_length(results: Sequence[PromptResult], method: str) -> Figure:
    """Tokens after the first forward's ÷ forwards after prefill."""
    runs = _runs(results, method)
    return _quotient(sum(run.decode_tokens for run in runs), sum(run.steps for run in runs))


def identical_prompts(results: Sequence[PromptResult], method: str) -> int:
    """How many prompts it answers with the very tokens of `transformers`."""
    return sum(result.runs[method].output_ids == result.runs[BASELINE].output_ids for result in results)


def _each(
    methods: Iterable[str],
    results: Sequence[PromptResult],
    figure: Callable[[Sequence[PromptResult], str], Figure],
) -> dict[str, ByCategory]:
    def of_method(method: str) -> ByCategory:
        return _grouped(results, lambda group: figure(group, method))

    return {method: of_method(method) for method in methods}


def _grouped(
    results: Sequence[PromptResult], figure: Callable[[Sequence[PromptResult]], Figure]
) -> ByCategory:
    """A figure overall and by category, categories in the order of the rows."""
    categories = dict.fromkeys(result.category for result in results)
    of_category = {
        category: [result for result in results if result.category == category] for category in categories
    }
    return {
        "overall": _rounded(figure(results)),
        "by_category": {category: _rounded(figure(group)) for category, group in of_category.items()},
    }


def _ratio(
    speed: Callable[[Sequence[PromptResult], str], Figure], reference: str
) -> Callable[[Sequence[PromptResult], str], Figure]:
    return lambda results, method: _quotient(speed(results, method), speed(results, reference))


def _quotient(numerator: Figure, denominator: Figure) -> float | None:
    return numerator / denominator if numerator is not None and denominator else None


def _rounded(figure: Figure) -> Figure:
    return round(figure, 4) if isinstance(figure, float) else figure


def _runs(results: Sequence[PromptResult], method: str) -> list[Run]:
    return [result.runs[method] for result in results]


def _per_prompt(result: PromptResult) -> dict[str, Any]:
    runs = {}
    for name, run in result.runs.items():
        measured = asdict(run)
        output_ids = measured.pop("output_ids")
        same = output_ids == result.runs[BASELINE].output_ids
        rounded = {
            key: round(value, 6) if isinstance(value, float) else value for key, value in measured.items()
        }
        runs[name] = {"tokens": run.tokens, **rounded, "identical": same}
    return {
        "id": result.row_id,
        "category": result.category,
        "prompt_tokens": result.prompt_tokens,
        "runs": runs,
    }
