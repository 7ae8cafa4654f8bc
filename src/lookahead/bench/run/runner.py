"""Running a benchmark: every method on every prompt, interleaved, on one model."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lookahead.bench.data.datasets import Row, limit_rows
from lookahead.bench.methods.best_of import BestOf, Trial
from lookahead.bench.methods.method import Method
from lookahead.bench.methods.registry import BASELINE, LOOKAHEAD, Ingredients, make_methods
from lookahead.bench.run.cases import Case, cases_of
from lookahead.bench.run.differences import Difference, Verdict, first_difference, judge_difference
from lookahead.bench.run.journal import Journal
from lookahead.bench.run.measuring import Clock, Run, greedy, measure
from lookahead.bench.run.memory_meter import MemoryMeter, NoMeter, memory_meter
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
"""On so many, of all categories, a method with several settings is tried in each."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure.

    Attributes:
        rows: the prompts.
        methods: names of methods, see `make_methods`.
        given: what the methods are made of.
        settings: of `generate`, `max_new_tokens` among them.
        warm_rows: what memories hold before the first row: these rows' references, where they have one, else
            the model's answers to them.
        batch_sizes: answer the rows in batches of each of these sizes, instead of one by one.
        seed: of what is drawn at random.
        measures_memory: measure peak memory, too.
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
        """How many rows or batches there are, warm rows included."""
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
    meter: MemoryMeter = field(default_factory=NoMeter)
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
            streamed=not self.plan.batch_sizes,  # batches of one are measured as the others are
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
    """Measure every method on every row; Ctrl-C ends it early with what there is.

    After a warm-up of each method the memories are emptied, and what a method does once for a model is done;
    they grow from row to row.

    Args:
        model: the one model that all methods use.
        tokenizer: the model's.
        plan: what to measure.
        journal: where each result is kept as it comes; what it holds is not measured again.
        on_row_done: called after each row, warm ones too.
        clock: says the time in seconds.
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
    methods = make_methods(plan.methods, replace(plan.given, longest_tokens=longest))
    warm_up(methods, model, tokenizer, plan.batch_sizes or (1,))
    _choose_settings(session, methods)
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
    """Let each method answer once for each batch size, unmeasured, so that all is set up; then forget it."""
    inputs = encode_prompt(tokenizer, WARM_UP_PROMPT, model)
    for method in methods:
        for size in batch_sizes:
            batch = {name: tensor.repeat(size, 1) for name, tensor in inputs.items()}
            measure(method, model, batch, settings=greedy(WARM_UP_TOKENS))
        method.forget()


def _begin_anew(session: _Session, methods: Sequence[Method]) -> None:
    """Have memories hold what they are warmed with, and nothing else."""
    for method in methods:
        method.forget()
        method.prepare(session.model, session.tokenizer)
        for text in session.warm_texts:
            method.remember(text)


def _choose_settings(session: _Session, methods: Sequence[Method]) -> None:
    """Try each method that has several settings in all of them, on a few rows, and keep the fastest."""
    recorded = {entry["method"]: entry for entry in _entries(session, "trial")}
    for method in methods:
        if isinstance(method, BestOf):
            if method.name in recorded:
                trial = Trial(**recorded[method.name]["trial"])
            else:
                trial = _tried(session, method)
                if session.journal is not None:
                    session.journal.append({"trial": trial.as_dict(), "method": method.name})
            method.choose(trial.chosen)
            session.benchmark.trials[method.name] = trial


def _tried(session: _Session, method: BestOf) -> Trial:
    plan = session.plan
    cases = cases_of(limit_rows(plan.rows, TRIAL_PROMPTS), session.tokenizer, session.model)
    cases = [case for case in cases if _fits(session, case)]
    seconds = dict.fromkeys(method.settings, 0.0)
    for index, case in enumerate(cases):
        for setting in _rotated(list(method.settings.values()), index):
            seconds[setting.name] += session.measure(setting, case, NoMeter()).total_s
    for setting in method.settings.values():
        setting.forget()
    return Trial(chosen=min(seconds, key=seconds.__getitem__), seconds=seconds, prompts=len(cases))


def _text_to_remember(session: _Session, row: Row, warming: Method) -> Sequence[int]:
    if row.reference is not None:
        token_ids: list[int] = session.tokenizer(row.reference, add_special_tokens=False)["input_ids"]
        return token_ids
    (case,) = cases_of([row], session.tokenizer, session.model)
    return session.measure(warming, case, NoMeter()).output_ids


def _resume(session: _Session, methods: Sequence[Method], cases: Sequence[Case]) -> int:
    """Take in what the journal holds, the answers into the memories too; return how many rows that were."""
    outcomes = [outcome_from_dict(entry) for entry in _entries(session, "outcome")]
    for case, outcome in zip(cases, outcomes, strict=False):
        if case.begins_anew:
            _begin_anew(session, methods)
        if isinstance(outcome, PromptResult):
            for method in methods:
                for prompt, answer in zip(case.prompts(), outcome.runs[method.name].answers, strict=True):
                    method.recall(prompt, answer)
        session.benchmark.add(outcome)
        session.on_row_done()
    session.benchmark.resumed_prompts = len(outcomes)
    return len(outcomes)


def _entries(session: _Session, kind: str) -> list[dict[str, Any]]:
    return [] if session.journal is None else [entry for entry in session.journal.entries if kind in entry]


def _outcome(session: _Session, case: Case, methods: Sequence[Method]) -> Outcome:
    """Measure one row, or say why not: whatever a method raises costs this row alone."""
    if not _fits(session, case):
        return Skipped(case.row_id)
    runs = {}
    for method in methods:
        try:
            runs[method.name] = session.measure(method, case)
        except Exception as error:  # noqa: BLE001  an hour of measuring must not end with one row
            error_in_words = f"{type(error).__name__}: {error}"
            return Failure(row_id=case.row_id, method=method.name, error=error_in_words[:500])
    return PromptResult(
        row_id=case.row_id,
        category=case.category,
        prompt_tokens=case.prompt_tokens,
        runs=runs,
        differences=_differences(session, case, runs),
    )


def _differences(session: _Session, case: Case, runs: Mapping[str, Run]) -> dict[str, Difference]:
    """Return where answers leave the baseline's; the model is asked about it once it is all measured."""
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


def _rotated(methods: Sequence[Method], index: int) -> list[Method]:
    """The methods in an order that moves on by one from prompt to prompt, so that none is always first."""
    start = index % len(methods)
    return [*methods[start:], *methods[:start]]
