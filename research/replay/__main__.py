"""`python -m research.replay`: replay with other systems, costs, calibration, or an experiment."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lookahead.bench.data.datasets import find_data
from lookahead.bench.data.traces import read_traces
from lookahead.bench.replay.drafters import Makers, make_replayed
from lookahead.bench.replay.results import replay_results
from lookahead.cli import options
from lookahead.cli.measure import replay as command
from lookahead.cli.setup import check_can_write, describe_call, notices
from lookahead.config import LookaheadConfig
from lookahead.errors import ConfigError
from lookahead.files import write_json
from research.command import run_command
from research.peers.arctic import INSTALL, arctic_is_installed
from research.plotting.calibration import plot_calibration
from research.plotting.kit import check_can_draw
from research.replay.costs import measure_costs
from research.replay.drafters import PEERS, REPLAYED, SIZED
from research.replay.experiments import make_experiment, run_experiment
from research.replay.report import write_replay_report
from research.replay.tables import experiment_tables, full_cost_table
from research.reports import check_folder

app = typer.Typer(pretty_exceptions_enable=False)

Stores = Annotated[
    list[str] | None,
    typer.Option(
        help="log, trie, trie-parallel, trie-single, or one of --peers; repeatable.", show_default="log"
    ),
]
Peers = Annotated[
    bool,
    typer.Option(
        "--peers", help="Other systems, too: prompt lookup, LLMA, the published trie, Arctic's suffix tree."
    ),
]
Costs = Annotated[bool, typer.Option("--costs", help="Measure what drafting costs with a full memory.")]
Picture = Annotated[
    Path | None, typer.Option(help="Draw predicted against observed acceptance here: .svg, .png or .pdf.")
]
Experiment = Annotated[
    str | None,
    typer.Option(
        help="Instead of stores and sizes: grid (decoding by branch length), capacity, ablation or warm-up.",
        show_default="none",
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(help="Write the experiment's report into this folder: Markdown, JSON, pictures."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the order of traces in --experiment warm-up.")]


@app.command()
def replay(
    file: command.Data,
    store: Stores = None,
    peers: Peers = False,
    draft_tokens: command.Sizes = "8,16,32,64",
    branch_length: options.BranchLength = options.DEFAULTS.branch_length,
    max_nodes: command.MaxNodes = None,
    warm: command.Warm = None,
    recycling: command.Recycling = True,
    costs: Costs = False,
    memory_tokens: command.MemoryTokens = 1_000_000,
    calibration: Picture = None,
    json: command.Json = None,
    experiment: Experiment = None,
    report: Report = None,
    seed: Seed = 0,
) -> None:
    """Replay recorded greedy answers through draft stores and other systems."""
    file, warm = find_data(file), warm and find_data(warm)
    if experiment is not None:
        _experiment(experiment, file, seed, json, report)
        return
    if report is not None:
        message = "--report is of an experiment: name one with --experiment, or use --json"
        raise ConfigError(message)
    sizes = options.integers_in("--draft-tokens", draft_tokens)
    makers = _makers(store or ["log"], max_nodes, peers=peers)
    costed = _costed(makers) if costs else {}
    traces = read_traces(file)
    warming = read_traces(warm) if warm else []
    for path in filter(None, (json, calibration)):
        check_can_write(path)
    if calibration:
        check_can_draw(calibration)
    found = _about(file, traces, warm, warming)
    found |= {"branch_length": branch_length, "recycling": recycling, "memory_nodes": max_nodes}
    with notices.status("replaying") as status:
        found["results"] = replay_results(
            makers,
            LookaheadConfig(branch_length=branch_length),
            traces,
            sizes,
            memory_tokens=memory_tokens,
            warming=warming,
            recycling=recycling,
            sized=SIZED,
            on_progress=status.update,
        )
        if costs:
            rows = measure_costs(
                costed, traces, sizes, memory_tokens=memory_tokens, on_progress=status.update
            )
            found |= {"memory_tokens": memory_tokens, "costs": rows}
    command.print_replay(found)
    if costs:
        Console().print()
        Console().print(full_cost_table(found["costs"], memory_tokens).as_rich())
    if json:
        write_json(json, found)
    if calibration:
        plot_calibration(found["results"], calibration)


def _experiment(name: str, file: Path, seed: int, json: Path | None, report: Path | None) -> None:
    """Replay the variants of an experiment; print and write the results."""
    experiment, traces = make_experiment(name), read_traces(file)
    if json is not None:
        check_can_write(json)
    if report is not None:
        check_folder(report)
    found = _about(file, traces, None, [])
    found |= {"seed": seed, "experiment": name, "question": experiment.question}
    with notices.status("replaying") as status:
        found["results"] = run_experiment(
            experiment, traces, seed=seed, on_variant=lambda variant: status.update(f"replaying {variant}")
        )
    for table in experiment_tables(found):
        Console().print(table.as_rich())
    if json is not None:
        write_json(json, found)
    if report is not None:
        write_replay_report(report, found)
        notices.print(f"report: {report}")


def _about(*arguments: Any) -> dict[str, Any]:
    return {**command.about_replay(*arguments), **describe_call("python -m research.replay")}


def _makers(stores: list[str], max_nodes: int | None, *, peers: bool) -> Makers:
    """Return the makers of the drafters; print a notice if a peer is not installed."""
    names = [*stores, *PEERS] if peers else stores
    if peers and not arctic_is_installed():
        notices.print(f"arctic-inference is not installed, its rows are left out; to have them: {INSTALL}")
        names = [name for name in names if name in stores or not name.startswith("arctic")]
    return make_replayed(names, max_nodes=max_nodes, known=REPLAYED)


def _costed(makers: Makers) -> Makers:
    """Return the makers whose costs are measured.

    Raises:
        ConfigError: There are none.
    """
    costed = {name: make for name, make in makers.items() if name in SIZED}
    if not costed:
        message = f"--costs measures {', '.join(sorted(SIZED))}, none of which is in {', '.join(makers)}"
        raise ConfigError(message)
    return costed


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(app, arguments)


if __name__ == "__main__":
    main()
