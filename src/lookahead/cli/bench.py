"""`lookahead bench`: measure the methods against each other on a file of prompts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookahead.cli import options
from lookahead.cli.setup import (
    check_can_write,
    describe_call,
    describe_file,
    notices,
    prepare_model,
    warn_when_busy,
)
from lookahead.config import LookaheadConfig
from lookahead.files import write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lookahead.bench.datasets import Row
    from lookahead.bench.runner import BenchmarkResult

INTERRUPTED = 130  # the exit code of a program that Ctrl-C ended


Data = Annotated[Path, typer.Argument(help="Rows {id, category, turns} as .jsonl or .jsonl.gz.")]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        help="transformers (always measured), prompt-lookup, lookahead, lookahead-plain (its step without "
        "drafts), lookahead-16 (any fixed size) or lookahead-vocabulary (it has learned the model's "
        "vocabulary before); repeatable.",
        show_default="the first four",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(help="Measure so many rows, an equal share of each category.", show_default="all"),
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")]
Warm = Annotated[
    Path | None,
    typer.Option(
        help="Rows that memories know before the first measured one: by their `reference`, else by the "
        "model's own answer, unmeasured. Measured rows are left out.",
        show_default="memories start empty",
    ),
]
WarmLimit = Annotated[int | None, typer.Option(min=1, help="So many of them.", show_default="all")]
Temperature = Annotated[
    float, typer.Option(min=0.0, help="Sample at this temperature, every method with one seed; 0 is greedy.")
]
Json = Annotated[Path | None, typer.Option("--json", help="Write every figure, raw and summed up, here.")]


def bench(
    file: Data,
    method: Methods = None,
    limit: Limit = None,
    model: options.Model = "embedded",
    dtype: options.Dtype = options.DtypeName.BFLOAT16,
    device: options.Device = None,
    threads: options.Threads = None,
    max_new_tokens: MaxNewTokens = 192,
    temperature: Temperature = 0.0,
    warm: Warm = None,
    warm_limit: WarmLimit = None,
    decoding_length: options.DecodingLength = options.AUTO,
    branch_length: options.BranchLength = options.DEFAULTS.branch_length,
    mode: options.Mode = options.DEFAULTS.mode,
    json: Json = None,
) -> None:
    """Measure tokens per second of each method, prompt by prompt on the same model.

    The draft memory grows from row to row.
    """
    config = LookaheadConfig(
        decoding_length=options.decoding_length_in(decoding_length), branch_length=branch_length, mode=mode
    )
    from lookahead.bench.environment import describe_environment, load_average
    from lookahead.bench.measuring import greedy, sampled
    from lookahead.bench.methods import make_methods

    data = _read_data(file, limit, warm, warm_limit)
    names = [made.name for made in make_methods(method or [], config)]
    if json is not None:
        check_can_write(json)
    load_at_start = load_average()
    loaded, tokenizer = prepare_model(model, dtype.value, device, threads)
    rows, warm_rows = data or (_random_rows(tokenizer, limit), [])
    environment = describe_environment(loaded, model, load_at_start)
    warn_when_busy(environment)
    settings = {**_describe_data(file, rows, limit), "methods": names, "max_new_tokens": max_new_tokens}
    settings |= {"decoding_length": decoding_length, "branch_length": branch_length, "mode": mode.value}
    settings |= {
        "temperature": temperature,
        "warmed_with": warm and {**describe_file(warm), "rows": len(warm_rows)},
    }
    generation = sampled(max_new_tokens, temperature) if temperature else greedy(max_new_tokens)
    benchmark = _run_with_progress(
        loaded, tokenizer, rows, methods=names, config=config, settings=generation, warm_rows=warm_rows
    )
    _report(benchmark, _about(settings, environment), json)


def _read_data(
    file: Path, limit: int | None, warm: Path | None, warm_limit: int | None
) -> "tuple[list[Row], list[Row]] | None":
    """Return the rows to measure and those to warm memories with; None for words at random."""
    from lookahead.bench.datasets import RANDOM_WORDS, limit_rows, read_rows

    if str(file) == RANDOM_WORDS:
        return None
    rows = limit_rows(read_rows(file), limit)
    measured = {row.prompt for row in rows}
    warm_rows = [] if warm is None else [row for row in read_rows(warm) if row.prompt not in measured]
    return rows, limit_rows(warm_rows, warm_limit) if warm_rows else []


def _random_rows(tokenizer: "PreTrainedTokenizerBase", limit: int | None) -> "list[Row]":
    from lookahead.bench.datasets import random_rows

    pieces = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    words = sorted({piece.strip() for piece in pieces if piece.startswith(" ") and piece.strip().isalpha()})
    return random_rows(words, limit or 10)


def _about(settings: dict[str, Any], environment: dict[str, Any]) -> dict[str, Any]:
    """When, how and on what: what a report says beside its figures."""
    return {**describe_call(), "settings": settings, "environment": environment}


def _report(benchmark: "BenchmarkResult", about: dict[str, Any], json: Path | None) -> None:
    """Show the figures and, where asked to, write them; after Ctrl-C leave as it would have."""
    from lookahead.bench.report import summarise

    summary = summarise(benchmark)
    if json is not None:
        write_json(json, {**about, **summary})
    _print_tables(summary)
    if benchmark.interrupted:
        raise typer.Exit(INTERRUPTED)


def _describe_data(file: Path, rows: "list[Row]", limit: int | None) -> dict[str, Any]:
    described = describe_file(file) if file.is_file() else {"data": str(file)}
    return {**described, "rows": len(rows), "limit": limit}


def _run_with_progress(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    rows: "list[Row]",
    *,
    warm_rows: "list[Row]",
    **how: Any,
) -> "BenchmarkResult":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from lookahead.bench.runner import run_benchmark

    columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Redrawn between prompts only: a thread that draws while something is measured takes its time from it.
    with Progress(*columns, console=notices, auto_refresh=False) as progress:
        task = progress.add_task("measuring", total=len(warm_rows) + len(rows))

        def advance() -> None:
            progress.update(task, advance=1, refresh=True)

        return run_benchmark(model, tokenizer, rows, warm_rows=warm_rows, on_row_done=advance, **how)


def _print_tables(summary: dict[str, Any]) -> None:
    from rich.console import Console

    from lookahead.bench.tables import category_table, method_table

    console = Console()
    if summary["interrupted"]:
        notices.print("interrupted; this is what was measured", style="yellow")
    if summary["skipped"]:
        skipped = ", ".join(map(str, summary["skipped"]))
        notices.print(f"skipped, too long for the model's context: {skipped}", style="yellow")
    if summary["prompts"]["overall"]:
        console.print(method_table(summary))
        console.print()
        console.print(category_table(summary))
