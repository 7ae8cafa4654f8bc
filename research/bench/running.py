"""Run an experiment: trials first, then all rows one by one or in batches of each size."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lookahead.bench.data.datasets import Row
from lookahead.bench.run.cases import Case
from lookahead.bench.run.journal import Journal
from lookahead.bench.run.measuring import measure
from lookahead.bench.run.results import BenchmarkResult
from lookahead.bench.run.runner import Plan, run_benchmark
from lookahead.cli.measure.bench import progress_of
from research.bench.batches import batch_cases, joined, measure_batch, warm_up_batch
from research.bench.best_of import run_trials
from research.bench.library import StaticCompiledMethod
from research.bench.peak_memory import MemoryMeter, metered

Journals = Mapping[int, Journal | None]
"""A journal for each batch size; ONE_BY_ONE is the only key if rows are not batched."""
ONE_BY_ONE = 0


def run_experiment(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    plan: Plan,
    rows: Sequence[Row],
    journals: Journals,
    meter: MemoryMeter,
) -> BenchmarkResult:
    """Measure every method on every row, for each batch size; memories start anew for each size.

    Args:
        model: The model that all methods use.
        tokenizer: The model's tokenizer.
        plan: What to measure, row by row.
        rows: The rows, some of which are for trials.
        journals: The batch sizes, and where the results of each are kept.
        meter: Measures peak memory.
    """
    cases = {size: _cases(plan, size, tokenizer.pad_token_id or 0) for size in journals}
    _fix_cache_size(plan)
    trials = run_trials(plan, rows, model, tokenizer, journals.get(ONE_BY_ONE))
    parts = []
    calls = sum(len(plan.warm_rows) + len(of_size) for of_size in cases.values())
    with progress_of(calls) as advance:
        for size, journal in journals.items():
            if size != ONE_BY_ONE:
                warm_up_batch(plan.methods, model, tokenizer, size)
            part = run_benchmark(
                model,
                tokenizer,
                replace(plan, cases=cases[size]),
                journal=journal,
                on_row_done=advance,
                measure_with=metered(measure if size == ONE_BY_ONE else measure_batch, meter),
            )
            parts.append(part)
            if part.interrupted:
                break
    return replace(joined(parts), trials=trials)


def shuffle_rows(rows: Sequence[Row], seed: int) -> list[Row]:
    """Return the rows in random order, with categories mixed as requests are."""
    order = np.random.default_rng(seed).permutation(len(rows))
    return [rows[index] for index in order]


def _cases(plan: Plan, size: int, pad_token: int) -> Sequence[Case]:
    return plan.cases if size == ONE_BY_ONE else batch_cases(plan.cases, size, pad_token)


def _fix_cache_size(plan: Plan) -> None:
    """Give all static caches the size that the longest row needs."""
    longest = max((case.width for case in plan.cases), default=0) + plan.settings["max_new_tokens"]
    for method in plan.methods:
        if isinstance(method, StaticCompiledMethod):
            method.cache_tokens = longest
