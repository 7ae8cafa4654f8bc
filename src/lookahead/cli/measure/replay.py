"""`lookahead replay`: count the tokens per step that drafts give, from recorded answers, without a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookahead.bench.replay.known_noise import KnownNoise
from lookahead.cli import options
from lookahead.cli.setup import check_can_write, deliver, describe_call, describe_file, notices
from lookahead.config import LookaheadConfig

if TYPE_CHECKING:
    from lookahead.bench.data.traces import Trace

Data = Annotated[
    Path,
    typer.Argument(help="Traces {id, category, prompt_ids, output_ids[, top8_ids]}, .jsonl or .jsonl.gz."),
]
Stores = Annotated[
    list[str] | None,
    typer.Option(help="log, trie, trie-parallel or trie-single; repeatable.", show_default="log"),
]
Sizes = Annotated[
    str, typer.Option(help="Draft tokens per step, without the current one; several separated by commas.")
]
MaxNodes = Annotated[
    int | None, typer.Option(min=64, help="Hard cap of tries, in nodes.", show_default="what 256 MiB hold")
]
Warm = Annotated[
    Path | None, typer.Option(help="Traces to learn first, unmeasured.", show_default="start cold")
]
Recycling = Annotated[
    bool,
    typer.Option("--recycling/--no-recycling", help="Recycle the recorded top8_ids once they are known."),
]
Noise = Annotated[
    KnownNoise, typer.Option(help="What drafts know of the noise of sampled answers; other is a control.")
]
MemoryTokens = Annotated[
    int, typer.Option(min=1, help="Tokens in the memory that bytes per token are measured with.")
]
Json = Annotated[Path | None, typer.Option("--json", help="Write every figure to this file.")]


def replay(
    file: Data,
    store: Stores = None,
    draft_tokens: Sizes = "8,16,32,64",
    branch_length: options.BranchLength = options.DEFAULTS.branch_length,
    max_nodes: MaxNodes = None,
    warm: Warm = None,
    recycling: Recycling = True,
    noise: Noise = KnownNoise.OWN,
    memory_tokens: MemoryTokens = 1_000_000,
    json: Json = None,
) -> None:
    """Replay recorded answers through a draft store.

    The memory starts empty, or warm, and grows from trace to trace.
    """
    sizes = options.integers_in("--draft-tokens", draft_tokens)
    config = LookaheadConfig(branch_length=branch_length)

    from lookahead.bench.data.datasets import find_data
    from lookahead.bench.data.traces import read_traces
    from lookahead.bench.replay.drafters import make_replayed
    from lookahead.bench.replay.results import replay_results

    file, warm = find_data(file), warm and find_data(warm)
    makers = make_replayed(store or ["log"], max_nodes=max_nodes)
    traces = read_traces(file)
    warming = read_traces(warm) if warm else []
    if json is not None:
        check_can_write(json)
    report = about_replay(file, traces, warm, warming)
    report |= {"branch_length": branch_length, "recycling": recycling, "noise": noise}
    report |= {"memory_nodes": max_nodes}
    with notices.status("replaying") as status:
        report["results"] = replay_results(
            makers,
            config,
            traces,
            sizes,
            memory_tokens=memory_tokens,
            warming=warming,
            recycling=recycling,
            known_noise=noise,
            on_progress=status.update,
        )
    deliver(json, report, lambda: print_replay(report))


def about_replay(
    file: Path, traces: "list[Trace]", warm: Path | None, warming: "list[Trace]"
) -> dict[str, Any]:
    """Return what a report says besides its figures: when, by which command, on what machine and data."""
    from lookahead.bench.run.environment import describe_machine, load_average

    about: dict[str, Any] = {**describe_call(), "environment": describe_machine(load_average())}
    about |= {**describe_file(file), "traces": len(traces), "memory": "warm" if warm else "cold"}
    if warm is not None:
        about["warmed_with"] = {**describe_file(warm), "traces": len(warming)}
    return about


def print_replay(report: dict[str, Any]) -> None:
    """Print the tables of a replay."""
    from rich.console import Console

    from lookahead.bench.replay.tables import acceptance_table, replay_cost_table

    console = Console()
    console.print(acceptance_table(report["results"], report["memory"]).as_rich())
    console.print()
    console.print(replay_cost_table(report["results"]).as_rich())
