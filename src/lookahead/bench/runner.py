"""Running a benchmark: every method on every prompt, interleaved, on one model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lookahead.bench.datasets import Row
from lookahead.bench.measuring import Run, greedy, measure
from lookahead.bench.methods import LOOKAHEAD, Method, make_methods
from lookahead.config import LookaheadConfig
from lookahead.hf.compat import context_length
from lookahead.hf.prompts import encode_prompt

WARM_UP_PROMPT = "Count from one to ten, then from one to ten again."
WARM_UP_TOKENS = 24


@dataclass(frozen=True, kw_only=True)
class PromptResult:
    """One prompt, answered by every method.

    Attributes:
        row_id: the row's id.
        category: the row's category.
        prompt_tokens: how long the prompt is, chat template included.
        runs: by method name.
    """

    row_id: str | int
    category: str
    prompt_tokens: int
    runs: dict[str, Run]


@dataclass
class BenchmarkResult:
    """What was measured, complete or up to an interruption.

    Attributes:
        results: a prompt each, in the order of the rows.
        skipped: ids of the rows that do not fit the model's context with the tokens to generate.
        interrupted: the user stopped it.
        warmed: memories held something before the first row.
    """

    results: list[PromptResult] = field(default_factory=list)
    skipped: list[str | int] = field(default_factory=list)
    interrupted: bool = False
    warmed: bool = False


def run_benchmark(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    methods: Sequence[str],
    config: LookaheadConfig,
    settings: Mapping[str, Any],
    warm_rows: Sequence[Row] = (),
    on_row_done: Callable[[], None] = lambda: None,
) -> BenchmarkResult:
    """Measure every method on every row; Ctrl-C ends it early with what there is.

    After a warm-up of each method the memories are emptied, and what a method does once for a model is done;
    they grow from row to row.

    Args:
        model: the one model that all methods use.
        tokenizer: the model's.
        rows: the prompts.
        methods: names of methods, see `make_methods`.
        config: settings of the Lookahead methods.
        settings: of `generate`, `max_new_tokens` among them.
        warm_rows: what memories hold before the first row: these rows' references, where they have one, else
            the model's answers to them.
        on_row_done: called after each row, warm ones too.
    """
    benchmark = BenchmarkResult(warmed=len(warm_rows) > 0)
    try:
        made = make_methods(methods, config)
        warm_up(made, model, tokenizer)
        for method in made:
            method.prepare(model, tokenizer)
        warming = make_methods([LOOKAHEAD], config)[-1]
        for row in warm_rows:
            token_ids = _text_to_remember(model, tokenizer, row, warming, settings)
            for method in made:
                method.remember(token_ids)
            on_row_done()
        for index, row in enumerate(rows):
            result = _measure_row(model, tokenizer, row, _rotated(made, index), settings)
            if result is None:
                benchmark.skipped.append(row.row_id)
            else:
                benchmark.results.append(result)
            on_row_done()
    except KeyboardInterrupt:
        benchmark.interrupted = True
    return benchmark


def warm_up(methods: Sequence[Method], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let each method answer once, unmeasured, so that all is set up and compiled; then forget the answer."""
    inputs = encode_prompt(tokenizer, WARM_UP_PROMPT, model)
    for method in methods:
        measure(method, model, inputs, settings=greedy(WARM_UP_TOKENS))
        method.forget()


def _text_to_remember(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    row: Row,
    warming: Method,
    settings: Mapping[str, Any],
) -> Sequence[int]:
    if row.reference is not None:
        token_ids: list[int] = tokenizer(row.reference, add_special_tokens=False)["input_ids"]
        return token_ids
    return measure(warming, model, encode_prompt(tokenizer, row.prompt, model), settings=settings).output_ids


def _measure_row(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    row: Row,
    methods: Sequence[Method],
    settings: Mapping[str, Any],
) -> PromptResult | None:
    inputs = encode_prompt(tokenizer, row.prompt, model)
    prompt_tokens = inputs["input_ids"].shape[1]
    context = context_length(model)
    if context is not None and prompt_tokens + settings["max_new_tokens"] > context:
        return None
    runs = {method.name: measure(method, model, inputs, settings=settings) for method in methods}
    return PromptResult(row_id=row.row_id, category=row.category, prompt_tokens=prompt_tokens, runs=runs)


def _rotated(methods: Sequence[Method], index: int) -> list[Method]:
    """The methods in an order that moves on by one from prompt to prompt, so that none is always first."""
    start = index % len(methods)
    return [*methods[start:], *methods[:start]]
