"""Summarise measurements by method, overall and by category. A speed is Σ tokens ÷ Σ seconds."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from lookahead.bench.methods.registry import BASELINE, NOISE, PROMPT_LOOKUP
from lookahead.bench.report.uncertainty import Amount, quotient, speed_ratio_interval
from lookahead.bench.run.differences import Verdict
from lookahead.bench.run.measuring import Run
from lookahead.bench.run.results import BenchmarkResult, PromptResult

Figure = float | int | list[float] | None
ByCategory = dict[str, Any]  # {"overall": figure, "by_category": {category: figure}}

_PERCENTILES = (50, 90, 99)
_NOT_IN_A_REPORT = ("answers", "waits_s")


def summarise(benchmark: BenchmarkResult) -> dict[str, Any]:
    """Return every figure of a benchmark as JSON-serialisable values; None for what was not measured.

    A figure is `{method: {"overall": …, "by_category": {category: …}}}`. Speedups are ratios of speeds, their
    95% intervals a bootstrap over prompts.
    """
    results = benchmark.results
    methods = list(results[0].runs) if results else []
    methods.sort(key=lambda name: (name != BASELINE, name != NOISE))
    others = [name for name in methods if name != BASELINE]
    ahead = (
        [name for name in others if name not in (PROMPT_LOOKUP, NOISE)] if PROMPT_LOOKUP in methods else []
    )
    return {
        "prompts": _grouped(results, len),
        "speedup": _each(others, results, _ratio(tokens_per_second, BASELINE)),
        "decode_speedup": _each(others, results, _ratio(decode_tokens_per_second, BASELINE)),
        "speedup_interval": _each(others, results, speedup_interval),
        "decode_speedup_interval": _each(others, results, decode_speedup_interval),
        "speedup_over_prompt_lookup": _each(ahead, results, _ratio(tokens_per_second, PROMPT_LOOKUP)),
        "decode_speedup_over_prompt_lookup": _each(
            ahead, results, _ratio(decode_tokens_per_second, PROMPT_LOOKUP)
        ),
        "tokens_per_second": _each(methods, results, tokens_per_second),
        "decode_tokens_per_second": _each(methods, results, decode_tokens_per_second),
        "mean_acceptance_length": _each(methods, results, mean_acceptance_length),
        "identical": _each(others, results, identical_prompts),
        "noise": _noise(results) if NOISE in methods else None,
        "latency": {method: _latency(results, method) for method in methods},
        "differences": {method: _differences(results, method) for method in others},
        "peak_memory": _peak_memory(benchmark, methods),
        **_about_the_run(benchmark),
        "per_prompt": [_per_prompt(result) for result in results],
    }


def _about_the_run(benchmark: BenchmarkResult) -> dict[str, Any]:
    """Return what happened in the run."""
    return {
        "memory": "warm" if benchmark.warmed else "cold",  # before the first row; it grows from row to row
        "interrupted": benchmark.interrupted,
        "resumed_prompts": benchmark.resumed_prompts,
        "skipped": benchmark.skipped,
        "failed": [asdict(failure) for failure in benchmark.failed],
        "trials": benchmark.trials,
    }


def tokens_per_second(results: Sequence[PromptResult], method: str) -> float | None:
    """Return the speed end to end: all tokens ÷ all seconds."""
    runs = _runs(results, method)
    return quotient(sum(run.tokens for run in runs), sum(run.total_s for run in runs))


def decode_tokens_per_second(results: Sequence[PromptResult], method: str) -> float | None:
    """Return the speed of decoding: tokens after the first forward pass ÷ seconds after the first token."""
    runs = _runs(results, method)
    return quotient(sum(run.decode_tokens for run in runs), sum(run.decode_s for run in runs))


def mean_acceptance_length(results: Sequence[PromptResult], method: str) -> float | None:
    """Return tokens after the first forward pass ÷ forward passes after prefill."""
    runs = _runs(results, method)
    return quotient(sum(run.decode_tokens for run in runs), sum(run.steps for run in runs))


def identical_prompts(results: Sequence[PromptResult], method: str) -> int:
    """Return the number of prompts with the same answer as `transformers`."""
    return sum(result.runs[method].answers == result.runs[BASELINE].answers for result in results)


def speedup_interval(results: Sequence[PromptResult], method: str) -> list[float] | None:
    """Return the 95% interval of the speedup end to end."""
    return _interval(results, method, lambda run: Amount(run.tokens, run.total_s))


def decode_speedup_interval(results: Sequence[PromptResult], method: str) -> list[float] | None:
    """Return the 95% interval of the speedup in decoding."""
    return _interval(results, method, lambda run: Amount(run.decode_tokens, run.decode_s))


def _interval(
    results: Sequence[PromptResult], method: str, amount: Callable[[Run], Amount]
) -> list[float] | None:
    ours, theirs = ([amount(run) for run in _runs(results, name)] for name in (method, BASELINE))
    interval = speed_ratio_interval([ours], [theirs])
    return None if interval is None else [round(bound, 4) for bound in interval]


def _noise(results: Sequence[PromptResult]) -> dict[str, Any]:
    """Return the ratio of the two baselines, over all prompts and for single prompts."""
    ratios = [result.runs[BASELINE].total_s / result.runs[NOISE].total_s for result in results]
    low, high = np.percentile(ratios, [5, 95])
    return {
        "speedup": _rounded(_ratio(tokens_per_second, BASELINE)(results, NOISE)),
        "interval": speedup_interval(results, NOISE),
        "per_prompt_p5": _rounded(float(low)),
        "per_prompt_p95": _rounded(float(high)),
    }


def _latency(results: Sequence[PromptResult], method: str) -> dict[str, Any] | None:
    """Return milliseconds to the first token, and before each later one; None without streaming."""
    runs = _runs(results, method)
    first = [run.first_token_s for run in runs if run.first_token_s is not None]
    waits = [wait for run in runs for wait in run.waits_s]
    if not first:
        return None
    return {"first_token_ms": _percentiles(first), "token_ms": _percentiles(waits)}


def _percentiles(seconds: Sequence[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    values = np.percentile(np.array(seconds) * 1000, _PERCENTILES)
    figures = {f"p{share}": round(float(value), 2) for share, value in zip(_PERCENTILES, values, strict=True)}
    return {"mean": round(float(np.mean(seconds)) * 1000, 2), **figures}


def _differences(results: Sequence[PromptResult], method: str) -> dict[str, int]:
    """Return the number of answers that differ, by the kind of the difference."""
    found = Counter(result.differences[method].verdict for result in results if method in result.differences)
    return {verdict.value: found[verdict] for verdict in Verdict if found[verdict]}


def _peak_memory(benchmark: BenchmarkResult, methods: Sequence[str]) -> dict[str, Any] | None:
    if benchmark.memory_source is None:
        return None
    peaks = {method: [run.peak_bytes or 0 for run in _runs(benchmark.results, method)] for method in methods}
    return {
        "source": benchmark.memory_source,
        "mebibytes": {method: round(max(of_method) / 2**20, 1) for method, of_method in peaks.items()},
    }


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
    """Return a figure overall and by category, in the order of the rows."""
    categories = dict.fromkeys(result.category for result in results)
    of_category = {
        category: [result for result in results if result.category == category] for category in categories
    }
    return {
        "overall": _rounded(figure(results)),
        "by_category": {category: _rounded(figure(group)) for category, group in of_category.items()},
    }


def _ratio(
    speed: Callable[[Sequence[PromptResult], str], float | None], reference: str
) -> Callable[[Sequence[PromptResult], str], float | None]:
    return lambda results, method: quotient(speed(results, method), speed(results, reference))


def _rounded(figure: Figure) -> Figure:
    return round(figure, 4) if isinstance(figure, float) else figure


def _runs(results: Sequence[PromptResult], method: str) -> list[Run]:
    return [result.runs[method] for result in results]


def _per_prompt(result: PromptResult) -> dict[str, Any]:
    runs = {}
    for name, run in result.runs.items():
        measured = {key: value for key, value in asdict(run).items() if key not in _NOT_IN_A_REPORT}
        same = run.answers == result.runs[BASELINE].answers
        rounded = {
            key: round(value, 6) if isinstance(value, float) else value for key, value in measured.items()
        }
        runs[name] = {"tokens": run.tokens, **rounded, "identical": same}
        if name in result.differences:
            runs[name]["difference"] = asdict(result.differences[name])
    return {
        "id": result.row_id,
        "category": result.category,
        "prompt_tokens": result.prompt_tokens,
        "runs": runs,
    }
