"""`lookahead bench`: compare methods of generating on a file of prompts."""

from functools import partial
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
from lookahead.errors import ConfigError
from lookahead.files import write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lookahead.bench.data.datasets import Row
    from lookahead.bench.methods.registry import Ingredients
    from lookahead.bench.run.experiments import Experiment
    from lookahead.bench.run.journal import Journal
    from lookahead.bench.run.results import BenchmarkResult
    from lookahead.bench.run.runner import Plan

INTERRUPTED = 130  # the exit code of a program that Ctrl-C ended


Data = Annotated[
    Path,
    typer.Argument(
        help="Rows {id, category, turns}, or published files of Spec-Bench, GSM8K, HumanEval or Dolly; "
        ".jsonl or .jsonl.gz, here or in the folder LOOKAHEAD_DATA."
    ),
]
Experiments = Annotated[
    str,
    typer.Option(
        help="Which methods are measured, and how: main, methods (the paper's variants), batch, peak-memory, "
        "reproducible or warm-up."
    ),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        help="Instead of the experiment's methods, repeatable: transformers (always measured), "
        "transformers-again (its noise), prompt-lookup (the best of three settings), prompt-lookup-10 (any "
        "setting), static-compile, assisted (see --assistant), llma, lookahead-parallel, lookahead-trie, "
        "lookahead-log (with a fixed size), lookahead, lookahead-plain (without drafts), lookahead-fresh "
        "(memory emptied before each prompt), lookahead-reproducible (text independent of drafts), "
        "lookahead-16 (any fixed size), lookahead-16x8 (at most 8 deep), lookahead-256KiB (of memory) or "
        "lookahead-vocabulary (with the model's vocabulary learned).",
        show_default="the experiment's",
    ),
]
Noise = Annotated[
    bool,
    typer.Option("--noise/--no-noise", help="Measure transformers twice, to know the noise."),
]
Assistant = Annotated[str | None, typer.Option(help="The draft model of `assisted`: a hub id or a folder.")]
Limit = Annotated[
    int | None,
    typer.Option(help="Maximum number of rows, an equal share of each category.", show_default="all"),
]
BatchSizes = Annotated[
    str | None,
    typer.Option(
        help="Answer the rows in batches of these sizes, separated by commas: 1,2,4.",
        show_default="one by one",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of sampling, random words and shuffled rows.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Maximum length of an answer, in tokens.")]
Warm = Annotated[
    Path | None,
    typer.Option(
        help="Rows that memories learn first: their `reference`, else the model's own answer, unmeasured. "
        "Measured rows are left out.",
        show_default="start with empty memories",
    ),
]
WarmLimit = Annotated[
    int | None, typer.Option(min=1, help="Maximum number of --warm rows.", show_default="all")
]
Temperature = Annotated[
    float,
    typer.Option(min=0.0, help="Sample at this temperature, every method with the same seed; 0 is greedy."),
]
Json = Annotated[
    Path | None, typer.Option("--json", help="Write every figure, raw and summarised, to this file.")
]
Report = Annotated[Path | None, typer.Option(help="Write a report to this folder: Markdown, JSON, pictures.")]


def bench(
    file: Data,
    experiment: Experiments = "main",
    method: Methods = None,
    noise: Noise = True,
    assistant: Assistant = None,
    limit: Limit = None,
    batch_sizes: BatchSizes = None,
    seed: Seed = 0,
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
    draft_mode: options.Mode = options.DEFAULTS.draft_mode,
    compiled_cpu: options.CompiledCpu = True,
    json: Json = None,
    report: Report = None,
) -> None:
    """Measure the tokens per second of each method, prompt by prompt on the same model.

    The draft memory grows from row to row. With --json or --report the same command resumes an interrupted
    run.
    """
    config = LookaheadConfig(
        decoding_length=options.decoding_length_in(decoding_length),
        branch_length=branch_length,
        draft_mode=draft_mode,
        compiled_cpu=compiled_cpu,
    )
    from lookahead.bench.data.datasets import shuffle_rows
    from lookahead.bench.data.folder import find_data
    from lookahead.bench.methods.registry import Ingredients
    from lookahead.bench.run.environment import describe_environment, load_average
    from lookahead.bench.run.measuring import greedy, sampled
    from lookahead.bench.run.runner import Plan

    file, warm = find_data(file), warm and find_data(warm)
    chosen = _experiment(experiment)
    sizes = options.integers_in("--batch-sizes", batch_sizes) if batch_sizes else list(chosen.batch_sizes)
    data = _read_data(file, limit, warm, warm_limit)
    draft_model = None if assistant is None else partial(_load, assistant, dtype.value, device)
    given = Ingredients(config=config, assistant=draft_model)
    names = _method_names(method or list(chosen.methods), given, noise=noise, in_batches=bool(sizes))
    target = _target(json, report)
    load_at_start = load_average()
    loaded, tokenizer = prepare_model(model, dtype.value, device, threads)
    rows, warm_rows = data or (_random_rows(tokenizer, limit, seed), [])
    rows = shuffle_rows(rows, seed) if chosen.shuffles else rows
    plan = Plan(
        rows=rows,
        methods=names,
        given=given,
        settings=sampled(max_new_tokens, temperature) if temperature else greedy(max_new_tokens),
        warm_rows=warm_rows,
        batch_sizes=sizes,
        seed=seed,
        measures_memory=chosen.measures_memory,
    )
    environment = describe_environment(loaded, model, load_at_start)
    warn_when_busy(environment)
    settings = {**_describe_data(file, rows, limit), "experiment": experiment, **_describe_plan(plan)}
    settings |= {"assistant": assistant, "warmed_with": None}
    if warm is not None:
        settings["warmed_with"] = {**describe_file(warm), "rows": len(warm_rows)}
    journal = _journal(target, settings, environment)
    benchmark = _run_with_progress(loaded, tokenizer, plan, journal)
    _report(benchmark, {**describe_call(), "settings": settings, "environment": environment}, json, report)
    if journal is not None and not benchmark.interrupted:
        journal.remove()
    if benchmark.interrupted:
        raise typer.Exit(INTERRUPTED)


def _experiment(name: str) -> "Experiment":
    from lookahead.bench.run.experiments import EXPERIMENTS

    if name not in EXPERIMENTS:
        message = f"--experiment {name!r} is unknown; choose from {', '.join(EXPERIMENTS)}"
        raise ConfigError(message)
    return EXPERIMENTS[name]


def _method_names(wanted: list[str], given: "Ingredients", *, noise: bool, in_batches: bool) -> list[str]:
    """Return the names of the methods to measure, the baseline first.

    Raises:
        ConfigError: A name is unknown, or a method cannot serve the batches.
    """
    from lookahead.bench.methods.registry import NOISE, make_methods

    made = make_methods([NOISE, *wanted] if noise else wanted, given)
    alone = [method.name for method in made if not method.batches]
    if in_batches and alone:
        message = f"{', '.join(alone)} answers one prompt at a time; leave it out of a measurement of batches"
        raise ConfigError(message)
    return [method.name for method in made]


def _load(name: str, dtype: str, device: str | None) -> "PreTrainedModel":
    from lookahead.hf.models.loading import load_model

    return load_model(name, dtype, device)[0]


def _target(json: Path | None, report: Path | None) -> Path | None:
    """Return the file of the figures, if any; check now that it can be written in the end."""
    if report is not None:
        from lookahead.bench.report.markdown import REPORT_JSON, check_folder

        check_folder(report)
    if json is not None:
        check_can_write(json)
        return json
    return None if report is None else report / REPORT_JSON


def _journal(target: Path | None, settings: dict[str, Any], environment: dict[str, Any]) -> "Journal | None":
    """Return the journal of this run, beside its report; an existing journal is continued."""
    if target is None:
        return None
    from lookahead.bench.run.journal import Journal, journal_beside

    lasting = {name: value for name, value in environment.items() if name != "load_average_at_start"}
    journal = Journal(journal_beside(target), {**settings, **lasting})
    if journal.entries:
        notices.print(f"going on with an interrupted run, from {journal_beside(target)}", style="yellow")
    return journal


def _read_data(
    file: Path, limit: int | None, warm: Path | None, warm_limit: int | None
) -> "tuple[list[Row], list[Row]] | None":
    """Return the rows to measure, and the rows to warm memories with; None for random words."""
    from lookahead.bench.data.datasets import RANDOM_WORDS, limit_rows, read_rows

    if str(file) == RANDOM_WORDS:
        return None
    rows = limit_rows(read_rows(file), limit)
    measured = {row.prompt for row in rows}
    warm_rows = [] if warm is None else [row for row in read_rows(warm) if row.prompt not in measured]
    return rows, limit_rows(warm_rows, warm_limit) if warm_rows else []


def _random_rows(tokenizer: "PreTrainedTokenizerBase", limit: int | None, seed: int) -> "list[Row]":
    from lookahead.bench.data.datasets import random_rows

    pieces = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    words = sorted({piece.strip() for piece in pieces if piece.startswith(" ") and piece.strip().isalpha()})
    return random_rows(words, limit or 10, seed)


def _report(
    benchmark: "BenchmarkResult", about: dict[str, Any], json: Path | None, folder: Path | None
) -> None:
    """Print the figures, and write them if asked to."""
    from lookahead.bench.report.summary import summarise

    summary = {**about, **summarise(benchmark)}
    if json is not None:
        write_json(json, summary)
    if folder is not None:
        from lookahead.bench.report.markdown import write_report

        write_report(folder, summary)
        notices.print(f"report: {folder}")
    _print_tables(summary)


def _describe_data(file: Path, rows: "list[Row]", limit: int | None) -> dict[str, Any]:
    described = describe_file(file) if file.is_file() else {"data": str(file)}
    return {**described, "rows": len(rows), "limit": limit}


def _describe_plan(plan: "Plan") -> dict[str, Any]:
    config = plan.given.config
    return {
        "methods": list(plan.methods),
        "max_new_tokens": plan.settings["max_new_tokens"],
        "temperature": plan.settings.get("temperature", 0.0),
        "decoding_length": config.decoding_length,
        "branch_length": config.branch_length,
        "fused_step": config.compiled_cpu,
        "mode": config.draft_mode.value,
        "batch_sizes": list(plan.batch_sizes),
        "seed": plan.seed,
    }


def _run_with_progress(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", plan: "Plan", journal: "Journal | None"
) -> "BenchmarkResult":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from lookahead.bench.run.runner import run_benchmark

    columns = (
        TextColumn("measuring"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    # Redraw between prompts only: a drawing thread would take time from what is measured.
    # Estimate from the last half hour: one category's prompts may be much longer than another's.
    with Progress(*columns, console=notices, auto_refresh=False, speed_estimate_period=1800) as progress:
        task = progress.add_task("measuring", total=plan.calls)

        def advance() -> None:
            progress.update(task, advance=1, refresh=True)

        return run_benchmark(model, tokenizer, plan, journal=journal, on_row_done=advance)


def _print_tables(summary: dict[str, Any]) -> None:
    from rich.console import Console

    from lookahead.bench.report.tables import benchmark_tables, words_about

    console = Console()
    for words in words_about(summary):
        notices.print(words, style="yellow")
    if summary["prompts"]["overall"]:
        for table in benchmark_tables(summary):
            console.print(table.as_rich())
            console.print()
