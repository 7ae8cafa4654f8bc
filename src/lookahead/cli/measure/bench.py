"""`lookahead bench`: compare methods of generating on a file of prompts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookahead.bench.serving.arrivals import Arrivals
from lookahead.cli import options
from lookahead.cli.measure import serving
from lookahead.cli.setup import (
    INTERRUPTED,
    check_can_write,
    deliver,
    describe_call,
    describe_file,
    notices,
    prepare_model,
    warn_when_busy,
)
from lookahead.config import DraftMode, LookaheadConfig
from lookahead.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lookahead.bench.data.datasets import Row
    from lookahead.bench.report.table_maker import FigureTable
    from lookahead.bench.run.journal import Journal
    from lookahead.bench.run.runner import Plan

Data = Annotated[
    Path,
    typer.Argument(
        help="Rows {id, category, turns}, or published files of Spec-Bench, GSM8K, HumanEval or Dolly; "
        ".jsonl or .jsonl.gz, here or in the folder LOOKAHEAD_DATA."
    ),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        help="Repeatable: transformers (always measured), transformers-again (its noise), prompt-lookup "
        "(10 copied tokens), prompt-lookup-N, lookahead, lookahead-N (a fixed size), lookahead-plain "
        "(without drafts), lookahead-reproducible (text independent of drafts) or lookahead-vocabulary "
        "(with the model's vocabulary learned). serving: la.generate (always measured), generate, "
        "generate-batch, continuous-batching, engine-off, engine-cold or engine-warm; default: all.",
        show_default="prompt-lookup, lookahead, lookahead-plain",
    ),
]
Noise = Annotated[
    bool,
    typer.Option("--noise/--no-noise", help="Measure the baseline twice, to know the noise."),
]
Limit = Annotated[
    int | None,
    typer.Option(help="Maximum number of rows, an equal share of each category.", show_default="all"),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of sampling and random words.")]
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


def bench(
    file: Data,
    method: Methods = None,
    noise: Noise = True,
    limit: Limit = None,
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
    experiment: serving.Which = serving.Experiment.MAIN,
    arrivals: serving.ArrivalsOption = Arrivals.ALL,
    rate: serving.Rate = 1.0,
    rows: serving.Rows = "1,4,8,16",
    pairs: serving.Pairs = 7,
    prefix_cache: serving.PrefixCache = False,
) -> None:
    """Measure the tokens per second of each method, prompt by prompt on the same model.

    The draft memory grows from row to row. With --json the same command resumes an interrupted run.

    With --experiment serving, the prompts are requests to a server; see Benchmarks in the documentation.
    """
    config = config_of(decoding_length, branch_length, draft_mode, compiled_cpu=compiled_cpu)
    options.check_sampling(temperature, seed)
    call = Call(
        data=lambda: read_data(file, limit, warm, warm_limit),
        limit=limit,
        seed=seed,
        load=lambda: prepare_model(model, dtype.value, device, threads),
        model=model,
        max_new_tokens=max_new_tokens,
        config=config,
        json=json,
    )
    if experiment is serving.Experiment.MAIN:
        compare_methods(call, method or [], noise=noise, temperature=temperature)
    else:
        serving.refuse_unused(temperature, warm)
        asked = serving.ServingOptions.of(arrivals, rate, rows, pairs, prefix_cache=prefix_cache)
        compare_servers(call, asked, method or [], noise=noise)


@dataclass(frozen=True, kw_only=True)
class Call:
    """The options that all experiments share.

    Attributes:
        data: Reads the rows.
        limit: Maximum number of rows; None for all.
        seed: Seed of sampling, random words and arrivals.
        load: Loads the model and its tokenizer.
        model: The model's name.
        max_new_tokens: The most tokens of an answer.
        config: Settings of Lookahead.
        json: Where the report goes; None for nowhere.
    """

    data: "Callable[[], BenchData]"
    limit: int | None
    seed: int
    load: "Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]]"
    model: str
    max_new_tokens: int
    config: LookaheadConfig
    json: Path | None


def compare_methods(call: Call, names: Sequence[str], *, noise: bool, temperature: float) -> None:
    """Answer each prompt by every method, one after the other."""
    from lookahead.bench.methods.registry import NOISE, USUAL, make_methods
    from lookahead.bench.report.summary import summarise
    from lookahead.bench.report.tables import benchmark_tables, words_about
    from lookahead.bench.run.cases import cases_of
    from lookahead.bench.run.environment import describe_environment, load_average
    from lookahead.bench.run.measuring import generation_settings
    from lookahead.bench.run.runner import Plan, run_benchmark

    data = call.data()
    methods = make_methods([*([NOISE] if noise else []), *(names or USUAL)], call.config)
    if call.json is not None:
        check_can_write(call.json)
    load_at_start = load_average()
    model, tokenizer = call.load()
    rows = data.rows or random_rows_of(tokenizer, call.limit, call.seed)
    plan = Plan(
        cases=cases_of(rows, tokenizer, model),
        methods=methods,
        settings=generation_settings(call.max_new_tokens, temperature),
        warm_rows=data.warm_rows,
        config=call.config,
        seed=call.seed,
    )
    environment = describe_environment(model, call.model, load_at_start)
    warn_when_busy(environment)
    settings = {**data.described(len(rows), call.limit), **describe_plan(plan)}
    journal = open_journal(call.json, settings, environment)
    with progress_of(len(plan.cases) + len(plan.warm_rows)) as advance:
        benchmark = run_benchmark(model, tokenizer, plan, journal=journal, on_row_done=advance)
    summary = {**describe_call(), "settings": settings, "environment": environment, **summarise(benchmark)}
    tables = benchmark_tables(summary) if benchmark.results else []
    deliver(call.json, summary, lambda: print_figures(words_about(summary), tables))
    end(journal, interrupted=benchmark.interrupted)


def compare_servers(call: Call, asked: serving.ServingOptions, names: Sequence[str], *, noise: bool) -> None:
    """Serve all prompts as requests, by every method, in several rounds."""
    from lookahead.bench.run.cases import cases_of
    from lookahead.bench.run.environment import describe_environment, load_average
    from lookahead.bench.run.runner import fits
    from lookahead.bench.serving.methods import Served
    from lookahead.bench.serving.registry import check_names
    from lookahead.bench.serving.rounds import run_serving
    from lookahead.bench.serving.summary import summarise_serving
    from lookahead.bench.serving.tables import serving_tables, words_about_serving

    check_names(names)
    data = call.data()
    if call.json is not None:
        check_can_write(call.json)
    load_at_start = load_average()
    model, tokenizer = call.load()
    rows = data.rows or random_rows_of(tokenizer, call.limit, call.seed)
    cases = cases_of(rows, tokenizer, model)
    fitting = [case for case in cases if fits(case, model, call.max_new_tokens)]
    served = Served(model=model, tokenizer=tokenizer, config=call.config, prefix_cache=asked.prefix_cache)
    plan = asked.plan(fitting, served, names, noise=noise, tokens=call.max_new_tokens, seed=call.seed)
    environment = describe_environment(model, call.model, load_at_start)
    warn_when_busy(environment)
    settings = {**data.described(len(rows), call.limit), **asked.described(plan, served)}
    journal = open_journal(call.json, settings, environment)
    with progress_of(plan.rounds * len(plan.methods)) as advance:
        result = run_serving(plan, served, journal=journal, on_done=advance)
    summary = {
        **describe_call(),
        "settings": settings,
        "environment": environment,
        "skipped": [case.row_id for case in cases if case not in fitting],
        **summarise_serving(result, settings["methods"], asked.rows),
    }
    deliver(call.json, summary, lambda: print_figures(words_about_serving(summary), serving_tables(summary)))
    end(journal, interrupted=result.interrupted)


def config_of(
    decoding_length: str, branch_length: int, draft_mode: DraftMode, *, compiled_cpu: bool
) -> LookaheadConfig:
    """Return the settings of Lookahead that the options give."""
    return LookaheadConfig(
        decoding_length=options.decoding_length_in(decoding_length),
        branch_length=branch_length,
        draft_mode=draft_mode,
        compiled_cpu=compiled_cpu,
    )


@dataclass(frozen=True, kw_only=True)
class BenchData:
    """The rows of a benchmark.

    Attributes:
        file: Where the rows come from.
        rows: The rows to measure; None if they are made of random words.
        warm: Where the warm rows come from; None without them.
        warm_rows: Rows that memories learn first.
    """

    file: Path
    rows: "list[Row] | None"
    warm: Path | None
    warm_rows: "list[Row]"

    def described(self, rows: int, limit: int | None) -> dict[str, Any]:
        """Return the data as settings of a report."""
        described = describe_file(self.file) if self.file.is_file() else {"data": str(self.file)}
        warmed = self.warm and {**describe_file(self.warm), "rows": len(self.warm_rows)}
        return {**described, "rows": rows, "limit": limit, "warmed_with": warmed}


def read_data(file: Path, limit: int | None, warm: Path | None, warm_limit: int | None) -> BenchData:
    """Read the rows to measure, and the rows to warm memories with."""
    from lookahead.bench.data.datasets import RANDOM_WORDS, find_data, limit_rows, read_rows

    file, warm = find_data(file), warm and find_data(warm)
    rows = None if str(file) == RANDOM_WORDS else limit_rows(read_rows(file), limit)
    measured = {row.prompt for row in rows or ()}
    warm_rows = [] if warm is None else [row for row in read_rows(warm) if row.prompt not in measured]
    return BenchData(file=file, rows=rows, warm=warm, warm_rows=limit_rows(warm_rows, warm_limit))


def random_rows_of(tokenizer: "PreTrainedTokenizerBase", limit: int | None, seed: int) -> "list[Row]":
    """Return rows of random words of the tokenizer's vocabulary.

    Raises:
        ConfigError: The vocabulary has no words.
    """
    from lookahead.bench.data.datasets import random_rows

    pieces = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    words = sorted({piece.strip() for piece in pieces if piece.startswith(" ") and piece.strip().isalpha()})
    if not words:
        message = "the tokenizer has no words to draw from; give a file of rows, or another --model"
        raise ConfigError(message)
    return random_rows(words, limit or 10, seed)


def describe_plan(plan: "Plan") -> dict[str, Any]:
    """Return the plan as settings of a report; some are constant here, but not in `research.bench`."""
    config = plan.config
    return {
        "experiment": "main",
        "methods": [method.name for method in plan.methods],
        "max_new_tokens": plan.settings["max_new_tokens"],
        "temperature": plan.settings.get("temperature", 0.0),
        "decoding_length": config.decoding_length,
        "branch_length": config.branch_length,
        "fused_step": config.compiled_cpu,
        "mode": config.draft_mode.value,
        "batch_sizes": [],
        "seed": plan.seed,
        "assistant": None,
    }


def open_journal(
    report: Path | None, settings: dict[str, Any], environment: dict[str, Any]
) -> "Journal | None":
    """Return the journal next to a report, which continues an interrupted run; None without a report."""
    if report is None:
        return None
    from lookahead.bench.run.journal import Journal, journal_beside

    lasting = {name: value for name, value in environment.items() if name != "load_average_at_start"}
    journal = Journal(journal_beside(report), {**settings, **lasting})
    if journal.entries:
        notices.print(f"going on with an interrupted run, from {journal_beside(report)}", style="yellow")
    return journal


@contextmanager
def progress_of(calls: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar, and yield what advances it by a call."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
        task = progress.add_task("measuring", total=calls)
        yield lambda: progress.update(task, advance=1, refresh=True)


def print_figures(words: Iterable[str], tables: "Iterable[FigureTable]") -> None:
    """Print the remarks on stderr, and the tables."""
    from rich.console import Console

    console = Console()
    for remark in words:
        notices.print(remark, style="yellow")
    for table in tables:
        console.print(table.as_rich())
        console.print()


def end(*journals: "Journal | None", interrupted: bool) -> None:
    """Remove the journals of a finished run; exit with 130 after an interrupted one."""
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    for journal in filter(None, journals):
        journal.remove()
