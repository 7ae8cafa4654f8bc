"""Running a benchmark: every method on every prompt, interleaved, on one model."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lookahead.bench.data.datasets import Row, limit_rows
from lookahead.bench.methods.method import Method
from lookahead.bench.methods.registry import BASELINE, LOOKAHEAD, Ingredients, make_methods
from lookahead.bench.run.cases import Case, cases_of
from lookahead.bench.run.differences import Difference, Verdict, first_difference, judge_difference
from lookahead.bench.run.journal import Journal
from lookahead.bench.run.measuring import Clock, Run, greedy, measure
from lookahead.bench.run.peak_memory import MemoryMeter, memory_meter
from lookahead.bench.run.results import (
    BenchmarkResult,
    Failure,
    Outcome,
    PromptResult,
    Skipped,
    outcome_as_dict,
    outcome_from_dict,
)
from lookahead.hf.compat.config import context_length
from lookahead.hf.models.loading import encode_prompt

WARM_UP_PROMPT = "Count from one to ten, then from one to ten again."
WARM_UP_TOKENS = 24
TRIAL_PROMPTS = 6
"""Prompts, of all categories, on which the variants of a method are tried."""

Methods = dict[str, Method]
"""Methods by the name they are reported under; a chosen variant keeps its method's name."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure.

    Attributes:
        rows: The prompts.
        methods: Names of methods, see `make_methods`.
        given: What the methods are made of.
        settings: Keyword arguments of `generate`, with `max_new_tokens`.
        warm_rows: Rows that memories learn first: the row's reference, else the model's answer.
        batch_sizes: Answer the rows in batches of each of these sizes, instead of one by one.
        seed: Seed of sampling.
        measures_memory: Measure peak memory, too.
    """

    rows: Sequence[Row]
    methods: Sequence[str]
    given: Ingredients
    settings: Mapping[str, Any]
    warm_rows: Sequence[Row] = ()
    batch_sizes: Sequence[int] = ()
    seed: int = 0
    measures_memory: bool = False

    @property
    def calls(self) -> int:
        """Number of rows or batches, warm rows included."""
        rows = len(self.rows)
        return len(self.warm_rows) + (sum(rows // size for size in self.batch_sizes) or rows)


@dataclass(kw_only=True)
class _Session:
    """A run in progress."""

    plan: Plan
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    journal: Journal | None
    on_row_done: Callable[[], None]
    clock: Clock
    meter: MemoryMeter = field(default_factory=MemoryMeter)
    benchmark: BenchmarkResult = field(default_factory=BenchmarkResult)
    warm_texts: list[Sequence[int]] = field(default_factory=list)

    def measure(self, method: Method, case: Case, meter: MemoryMeter | None = None) -> Run:
        """Measure one call."""
        return measure(
            method,
            self.model,
            case.inputs,
            settings=self.plan.settings,
            seed=self.plan.seed,
            streamed=not self.plan.batch_sizes,  # batches of one are measured like larger ones
            meter=meter or self.meter,
            clock=self.clock,
        )


def run_benchmark(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    plan: Plan,
    *,
    journal: Journal | None = None,
    on_row_done: Callable[[], None] = lambda: None,
    clock: Clock = time.perf_counter,
) -> BenchmarkResult:
    """Measure every method on every row; Ctrl-C ends the run early with the results so far.

    After a warm-up of each method the memories are emptied and `prepare` is called. Memories grow from row to
    row.

    Args:
        model: The model that all methods use.
        tokenizer: The model's tokenizer.
        plan: What to measure.
        journal: Keeps each result as it comes; results that it holds are not measured again.
        on_row_done: Called after each row, warm rows included.
        clock: Returns the time in seconds.
    """
    session = _Session(
        plan=plan, model=model, tokenizer=tokenizer, journal=journal, on_row_done=on_row_done, clock=clock
    )
    session.benchmark.warmed = len(plan.warm_rows) > 0
    if plan.measures_memory:
        session.meter = memory_meter(model.device)
        session.benchmark.memory_source = session.meter.source
    try:
        _run(session)
    except KeyboardInterrupt:
        session.benchmark.interrupted = True
    return session.benchmark


def _run(session: _Session) -> None:
    plan, model, tokenizer = session.plan, session.model, session.tokenizer
    cases = cases_of(plan.rows, tokenizer, model, plan.batch_sizes)
    longest = max((case.width for case in cases), default=0) + plan.settings["max_new_tokens"]
    made = make_methods(plan.methods, replace(plan.given, longest_tokens=longest))
    warm_up(made, model, tokenizer, plan.batch_sizes or (1,))
    methods = {method.name: _chosen(session, method) for method in made}
    warming = make_methods([LOOKAHEAD], plan.given)[-1]
    for row in plan.warm_rows:
        session.warm_texts.append(_text_to_remember(session, row, warming))
        session.on_row_done()
    _begin_anew(session, methods)
    done = _resume(session, methods, cases)
    for index, case in enumerate(cases[done:], start=done):
        if case.begins_anew:
            _begin_anew(session, methods)
        outcome = _outcome(session, case, _rotated(methods, index))
        if session.journal is not None:
            session.journal.append(outcome_as_dict(outcome))
        session.benchmark.add(outcome)
        session.on_row_done()


def warm_up(
    methods: Sequence[Method],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch_sizes: Sequence[int] = (1,),
) -> None:
    """Let each method answer once per batch size, unmeasured, to set everything up; then forget it."""
    inputs = encode_prompt(tokenizer, WARM_UP_PROMPT, model)
    for method in methods:
        for size in batch_sizes:
            batch = {name: tensor.repeat(size, 1) for name, tensor in inputs.items()}
            measure(method, model, batch, settings=greedy(WARM_UP_TOKENS))
        method.forget()


def _begin_anew(session: _Session, methods: Methods) -> None:
    """Empty the memories, and warm them."""
    for method in methods.values():
        method.forget()
        method.prepare(session.model, session.tokenizer)
        for text in session.warm_texts:
            method.remember(text)


def _chosen(session: _Session, method: Method) -> Method:
    """Return a method's fastest variant by a trial on a few rows; a method without variants itself."""
    if not method.variants:
        return method
    recorded = (entry["trial"] for entry in _entries(session, "trial") if entry["method"] == method.name)
    trial = next(recorded, None)
    if trial is None:
        trial = _trial(session, method.variants)
        if session.journal is not None:
            session.journal.append({"trial": trial, "method": method.name})
    session.benchmark.trials[method.name] = trial
    return next(variant for variant in method.variants if variant.name == trial["chosen"])


def _trial(session: _Session, variants: Sequence[Method]) -> dict[str, Any]:
    """Return the fastest variant's name, each one's seconds, and the number of prompts."""
    cases = cases_of(limit_rows(session.plan.rows, TRIAL_PROMPTS), session.tokenizer, session.model)
    cases = [case for case in cases if _fits(session, case)]
    by_name = {variant.name: variant for variant in variants}
    seconds = dict.fromkeys(by_name, 0.0)
    for index, case in enumerate(cases):
        for name, variant in _rotated(by_name, index).items():
            seconds[name] += session.measure(variant, case, MemoryMeter()).total_s
    for variant in variants:
        variant.forget()
    rounded = {name: round(spent, 4) for name, spent in seconds.items()}
    return {"chosen": min(seconds, key=seconds.__getitem__), "seconds": rounded, "prompts": len(cases)}


def _text_to_remember(session: _Session, row: Row, warming: Method) -> Sequence[int]:
    if row.reference is not None:
        token_ids: list[int] = session.tokenizer(row.reference, add_special_tokens=False)["input_ids"]
        return token_ids
    (case,) = cases_of([row], session.tokenizer, session.model)
    return session.measure(warming, case, MemoryMeter()).output_ids


def _resume(session: _Session, methods: Methods, cases: Sequence[Case]) -> int:
    """Add the journal's results, and recall their answers; return the number of rows."""
    outcomes = [outcome_from_dict(entry) for entry in _entries(session, "outcome")]
    for case, outcome in zip(cases, outcomes, strict=False):
        if case.begins_anew:
            _begin_anew(session, methods)
        if isinstance(outcome, PromptResult):
            for name, method in methods.items():
                for prompt, answer in zip(case.prompts(), outcome.runs[name].answers, strict=True):
                    method.recall(prompt, answer)
        session.benchmark.add(outcome)
        session.on_row_done()
    session.benchmark.resumed_prompts = len(outcomes)
    return len(outcomes)


def _entries(session: _Session, kind: str) -> list[dict[str, Any]]:
    return [] if session.journal is None else [entry for entry in session.journal.entries if kind in entry]


def _outcome(session: _Session, case: Case, methods: Methods) -> Outcome:
    """Measure one row, or return why it was not measured: an exception of a method costs only this row."""
    if not _fits(session, case):
        return Skipped(case.row_id)
    runs = {}
    for name, method in methods.items():
        try:
            runs[name] = session.measure(method, case)
        except Exception as error:  # noqa: BLE001  an hour of measuring must not end with one row
            error_in_words = f"{type(error).__name__}: {error}"
            return Failure(row_id=case.row_id, method=name, error=error_in_words[:500])
    return PromptResult(
        row_id=case.row_id,
        category=case.category,
        prompt_tokens=case.prompt_tokens,
        runs=runs,
        differences=_differences(session, case, runs),
    )


def _differences(session: _Session, case: Case, runs: Mapping[str, Run]) -> dict[str, Difference]:
    """Return where answers differ from the baseline's; the model judges that after all is measured."""
    prompt_ids, reference = case.inputs["input_ids"], runs[BASELINE]
    judged = len(prompt_ids) == 1 and not session.plan.settings["do_sample"]
    found = {}
    for name, run in runs.items():
        position = first_difference(reference.output_ids, run.output_ids)
        if position is None:
            continue
        difference = Difference(position=position, verdict=Verdict.UNJUDGED)
        if judged:
            difference = (
                judge_difference(session.model, prompt_ids, reference.output_ids, run.output_ids)
                or difference
            )
        found[name] = difference
    return found


def _fits(session: _Session, case: Case) -> bool:
    context = context_length(session.model)
    return context is None or case.width + session.plan.settings["max_new_tokens"] <= context


def _rotated(methods: Methods, index: int) -> Methods:
    """Return the methods, rotated by one more for each prompt, so that none is always first."""
    items = list(methods.items())
    start = index % len(items)
    return dict([*items[start:], *items[:start]])
