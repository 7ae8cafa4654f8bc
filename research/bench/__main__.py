"""`python -m research.bench ROWS …`: `lookahead bench` and its experiments."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from lookahead.bench.methods.method import Method
from lookahead.bench.methods.registry import NOISE, make_methods
from lookahead.bench.report.summary import summarise
from lookahead.bench.run.cases import cases_of
from lookahead.bench.run.environment import describe_environment, load_average
from lookahead.bench.run.measuring import generation_settings
from lookahead.bench.run.runner import Plan
from lookahead.cli import options
from lookahead.cli.measure import bench as command
from lookahead.cli.setup import check_can_write, describe_call, notices, prepare_model, warn_when_busy
from lookahead.errors import ConfigError
from lookahead.files import write_json
from lookahead.hf.models.loading import load_model
from research.bench.experiments import EXPERIMENTS, Experiment
from research.bench.methods import research_methods, serves_batches
from research.bench.peak_memory import MemoryMeter, memory_meter, summarise_peak_memory
from research.bench.running import ONE_BY_ONE, run_experiment, shuffle_rows
from research.bench.tables import research_tables, research_words
from research.command import run_command
from research.reports import REPORT_JSON, check_folder, write_report

app = typer.Typer(pretty_exceptions_enable=False)

Experiments = Annotated[
    str, typer.Option(help=f"Which methods are measured, and how: {', '.join(EXPERIMENTS)}.")
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        help=f"Instead of the experiment's methods, repeatable: {', '.join(research_methods())}.",
        show_default="the experiment's",
    ),
]
Assistant = Annotated[str | None, typer.Option(help="The draft model of `assisted`: a hub id or a folder.")]
BatchSizes = Annotated[
    str | None,
    typer.Option(
        help="Answer the rows in batches of these sizes, separated by commas: 1,2,4.",
        show_default="one by one",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of sampling, random words and shuffled rows.")]
Report = Annotated[Path | None, typer.Option(help="Write a report to this folder: Markdown, JSON, pictures.")]


@app.command()
def bench(
    file: command.Data,
    experiment: Experiments = "main",
    method: Methods = None,
    noise: command.Noise = True,
    assistant: Assistant = None,
    limit: command.Limit = None,
    batch_sizes: BatchSizes = None,
    seed: Seed = 0,
    model: options.Model = "embedded",
    dtype: options.Dtype = options.DtypeName.BFLOAT16,
    device: options.Device = None,
    threads: options.Threads = None,
    max_new_tokens: command.MaxNewTokens = 192,
    temperature: command.Temperature = 0.0,
    warm: command.Warm = None,
    warm_limit: command.WarmLimit = None,
    decoding_length: options.DecodingLength = options.AUTO,
    branch_length: options.BranchLength = options.DEFAULTS.branch_length,
    draft_mode: options.Mode = options.DEFAULTS.draft_mode,
    compiled_cpu: options.CompiledCpu = True,
    json: command.Json = None,
    report: Report = None,
) -> None:
    """Measure the methods of an experiment. With --json or --report the same command resumes a run."""
    config = command.config_of(decoding_length, branch_length, draft_mode, compiled_cpu=compiled_cpu)
    chosen = _experiment(experiment)
    sizes = options.integers_in("--batch-sizes", batch_sizes) if batch_sizes else list(chosen.batch_sizes)
    data = command.read_data(file, limit, warm, warm_limit)
    load = None if assistant is None else lambda: load_model(assistant, dtype.value, device)[0]
    names = [*([NOISE] if noise else []), *(method or chosen.methods)]
    methods = make_methods(names, config, research_methods(load))
    _check_batches(methods, sizes)
    target = _target(json, report)
    load_at_start = load_average()
    loaded, tokenizer = prepare_model(model, dtype.value, device, threads)
    rows = data.rows or command.random_rows_of(tokenizer, limit, seed)
    rows = shuffle_rows(rows, seed) if chosen.shuffles else rows
    plan = Plan(
        cases=cases_of(rows, tokenizer, loaded),
        methods=methods,
        settings=generation_settings(max_new_tokens, temperature),
        warm_rows=data.warm_rows,
        config=config,
        seed=seed,
    )
    environment = describe_environment(loaded, model, load_at_start)
    warn_when_busy(environment)
    settings = {**data.described(len(rows), limit), **command.describe_plan(plan), "experiment": experiment}
    settings |= {"batch_sizes": sizes, "assistant": assistant}
    journals = {
        size: command.open_journal(_of_size(target, size), settings, environment)
        for size in sizes or [ONE_BY_ONE]
    }
    meter = memory_meter(loaded.device) if chosen.measures_memory else MemoryMeter()
    benchmark = run_experiment(loaded, tokenizer, plan, rows, journals, meter)
    about = describe_call("python -m research.bench")
    summary = {**about, "settings": settings, "environment": environment, **summarise(benchmark)}
    if chosen.measures_memory:
        summary["peak_memory"] = summarise_peak_memory(benchmark, summary["tokens_per_second"], meter.source)
    _write(summary, json, report)
    command.end(*journals.values(), interrupted=benchmark.interrupted)


def _experiment(name: str) -> Experiment:
    if name not in EXPERIMENTS:
        message = f"--experiment {name!r} is unknown; choose from {', '.join(EXPERIMENTS)}"
        raise ConfigError(message)
    return EXPERIMENTS[name]


def _check_batches(methods: Sequence[Method], sizes: Sequence[int]) -> None:
    alone = [method.name for method in methods if not serves_batches(method)]
    if sizes and alone:
        message = f"{', '.join(alone)} answers one prompt at a time; leave it out of a measurement of batches"
        raise ConfigError(message)


def _target(json: Path | None, report: Path | None) -> Path | None:
    """Return the file of the figures, if any; check now that it can be written in the end."""
    if report is not None:
        check_folder(report)
    if json is not None:
        check_can_write(json)
        return json
    return None if report is None else report / REPORT_JSON


def _of_size(target: Path | None, size: int) -> Path | None:
    """Return the path whose journal keeps the results of a batch size."""
    return target if target is None or size == ONE_BY_ONE else target.with_name(f"{target.name}.batch-{size}")


def _write(summary: dict[str, Any], json: Path | None, report: Path | None) -> None:
    """Print the figures, and write them if asked to."""
    if json is not None:
        write_json(json, summary)
    if report is not None:
        write_report(report, summary)
        notices.print(f"report: {report}")
    measured = summary["prompts"]["overall"]
    command.print_figures(research_words(summary), research_tables(summary) if measured else [])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(app, arguments)


if __name__ == "__main__":
    main()
