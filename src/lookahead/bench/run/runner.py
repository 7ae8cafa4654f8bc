"""Running a benchmark: every method on every prompt, interleaved, on one model."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lookahead.bench.data.datasets import Row
from lookahead.bench.methods.lookahead import LookaheadMethod
from lookahead.bench.methods.method import Method
from lookahead.bench.methods.registry import BASELINE, LOOKAHEAD
from lookahead.bench.run.cases import Case, cases_of
from lookahead.bench.run.differences import Difference, Verdict, first_difference, judge_difference
from lookahead.bench.run.journal import Journal
from lookahead.bench.run.measuring import Clock, Run, greedy, measure
from lookahead.bench.run.results import (
    BenchmarkResult,
    Failure,
    Outcome,
    PromptResult,
    Skipped,
    outcome_as_dict,
    outcome_from_dict,
)
from lookahead.config import LookaheadConfig
from lookahead.hf.compat.config import context_length
from lookahead.hf.models.loading import encode_prompt

WARM_UP_PROMPT = "Count from one to ten, then from one to ten again."
WARM_UP_TOKENS = 24

AnyMethod = TypeVar("AnyMethod")
Measure = Callable[..., Run]
"""Measures one call, as `measure` does."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure.

    Attributes:
        cases: The prompts.
        methods: The methods, the baseline first.
        settings: Keyword arguments of `generate`, with `max_new_tokens`.
        warm_rows: Rows that memories learn first: the row's reference, else the model's answer.
        config: Settings of the Lookahead that answers warm rows.
        seed: Seed of sampling.
    """

    cases: Sequence[Case]
    methods: Sequence[Method]
    settings: Mapping[str, Any]
    warm_rows: Sequence[Row] = ()
    config: LookaheadConfig = field(default_factory=LookaheadConfig)
    seed: int = 0


@dataclass(kw_only=True)
class _Session:
    """A run in progress."""

    plan: Plan
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    journal: Journal | None
    on_row_done: Callable[[], None]
    measure_with: Measure | None
    clock: Clock
    benchmark: BenchmarkResult = field(default_factory=BenchmarkResult)
    warm_texts: list[Sequence[int]] = field(default_factory=list)

    def measure(self, method: Method, case: Case) -> Run:
        """Measure one call."""
        measured = self.measure_with or measure
        settings, seed = self.plan.settings, self.plan.seed
        return measured(method, self.model, case.inputs, settings=settings, seed=seed, clock=self.clock)


def run_benchmark(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    plan: Plan,
    *,
    journal: Journal | None = None,
    on_row_done: Callable[[], None] = lambda: None,
    measure_with: Measure | None = None,
    clock: Clock = time.perf_counter,
) -> BenchmarkResult:
    """Measure every method on every prompt; Ctrl-C ends the run early with the results so far.

    After a warm-up of each method the memories are emptied and `prepare` is called. Memories grow from prompt
    to prompt.

    Args:
        model: The model that all methods use.
        tokenizer: The model's tokenizer.
        plan: What to measure.
        journal: Keeps each result as it comes; results that it holds are not measured again.
        on_row_done: Called after each prompt, warm rows included.
        measure_with: Measures a call instead of `measure`.
        clock: Returns the time in seconds.
    """
    session = _Session(
        plan=plan,
        model=model,
        tokenizer=tokenizer,
        journal=journal,
        on_row_done=on_row_done,
        measure_with=measure_with,
        clock=clock,
    )
    session.benchmark.warmed = len(plan.warm_rows) > 0
    try:
        _run(session)
    except KeyboardInterrupt:
        session.benchmark.interrupted = True
    return session.benchmark


def _run(session: _Session) -> None:
    plan = session.plan
    warm_up(plan.methods, session.model, session.tokenizer)
    warming = LookaheadMethod(LOOKAHEAD, plan.config)
    for row in plan.warm_rows:
        session.warm_texts.append(_text_to_remember(session, row, warming))
        session.on_row_done()
    for method in plan.methods:
        method.forget()
        method.prepare(session.model, session.tokenizer)
        for text in session.warm_texts:
            method.remember(text)
    methods = {method.name: method for method in plan.methods}
    done = _resume(session, methods)
    for index, case in enumerate(plan.cases[done:], start=done):
        outcome = _outcome(session, case, rotated(methods, index))
        if session.journal is not None:
            session.journal.append(outcome_as_dict(outcome))
        session.benchmark.add(outcome)
        session.on_row_done()


def warm_up(methods: Sequence[Method], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let each method answer once, unmeasured, to set everything up; then empty its memory."""
    inputs = encode_prompt(tokenizer, WARM_UP_PROMPT, model)
    for method in methods:
        measure(method, model, inputs, settings=greedy(WARM_UP_TOKENS))
        method.forget()


def _text_to_remember(session: _Session, row: Row, warming: Method) -> Sequence[int]:
    if row.reference is not None:
        token_ids: list[int] = session.tokenizer(row.reference, add_special_tokens=False)["input_ids"]
        return token_ids
    (case,) = cases_of([row], session.tokenizer, session.model)
    return session.measure(warming, case).output_ids


def _resume(session: _Session, methods: Mapping[str, Method]) -> int:
    """Add the journal's results, and recall their answers; return their number."""
    entries = [] if session.journal is None else session.journal.entries
    outcomes = [outcome_from_dict(entry) for entry in entries if "outcome" in entry]
    for case, outcome in zip(session.plan.cases, outcomes, strict=False):
        if isinstance(outcome, PromptResult):
            for name, method in methods.items():
                for prompt, answer in zip(case.prompts(), outcome.runs[name].answers, strict=True):
                    method.recall(prompt, answer)
        session.benchmark.add(outcome)
        session.on_row_done()
    session.benchmark.resumed_prompts = len(outcomes)
    return len(outcomes)


def _outcome(session: _Session, case: Case, methods: Mapping[str, Method]) -> Outcome:
    """Measure one prompt, or return why it was not measured: an exception of a method costs this one only."""
    if not fits(case, session.model, session.plan.settings["max_new_tokens"]):
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


def fits(case: Case, model: PreTrainedModel, max_new_tokens: int) -> bool:
    """Return whether the prompt and its answer fit the model's context."""
    context = context_length(model)
    return context is None or case.width + max_new_tokens <= context


def rotated(methods: Mapping[str, AnyMethod], index: int) -> dict[str, AnyMethod]:
    """Return the methods, rotated by one more for each prompt, so that none is always first."""
    items = list(methods.items())
    start = index % len(items)
    return dict([*items[start:], *items[:start]])
