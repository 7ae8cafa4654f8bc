"""`lookahead replay`: how many tokens a step drafts would yield, from recorded answers, with no model."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookahead.cli import options
from lookahead.cli.setup import check_can_write, describe_call, describe_file, notices
from lookahead.config import LookaheadConfig
from lookahead.errors import ConfigError
from lookahead.files import write_json

if TYPE_CHECKING:
    from lookahead.bench.data.traces import Trace
    from lookahead.bench.replay.replay import ReplayedDrafter

Data = Annotated[
    Path,
    typer.Argument(help="Traces {id, category, prompt_ids, output_ids[, top8_ids]}, .jsonl or .jsonl.gz."),
]
Stores = Annotated[
    list[str] | None,
    typer.Option(
        help="log, trie, trie-parallel, trie-single, or one of --peers; repeatable.", show_default="log"
    ),
]
Peers = Annotated[
    bool,
    typer.Option(
        "--peers", help="Other systems too: prompt lookup, LLMA, the published trie, Arctic's suffix tree."
    ),
]
Sizes = Annotated[
    str, typer.Option(help="Draft tokens a step, the current one not counted; several by commas.")
]
MemoryNodes = Annotated[
    int | None, typer.Option(min=64, help="Hard cap on tries, in nodes.", show_default="what 256 MiB hold")
]
Warm = Annotated[Path | None, typer.Option(help="Traces to replay first, unmeasured.", show_default="cold")]
Recycling = Annotated[
    bool, typer.Option("--recycling/--no-recycling", help="Show drafters the recorded top8_ids, once due.")
]
Costs = Annotated[bool, typer.Option("--costs", help="Measure what drafting costs with a full memory.")]
MemoryTokens = Annotated[
    int, typer.Option(min=1, help="Tokens in memory, at most, for --costs and for bytes a token.")
]
Picture = Annotated[
    Path | None, typer.Option(help="Draw predicted against observed acceptance here: .svg, .png or .pdf.")
]
Json = Annotated[Path | None, typer.Option("--json", help="Write every figure here.")]
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
Seed = Annotated[int, typer.Option(min=0, help="Of the order of traces in --experiment warm-up.")]

Makers = Mapping[str, Callable[[LookaheadConfig], "ReplayedDrafter"]]


def replay(
    file: Data,
    store: Stores = None,
    peers: Peers = False,
    draft_tokens: Sizes = "8,16,32,64",
    branch_length: options.BranchLength = options.DEFAULTS.branch_length,
    max_nodes: MemoryNodes = None,
    warm: Warm = None,
    recycling: Recycling = True,
    costs: Costs = False,
    memory_tokens: MemoryTokens = 1_000_000,
    calibration: Picture = None,
    json: Json = None,
    experiment: Experiment = None,
    report: Report = None,
    seed: Seed = 0,
) -> None:
    """Replay recorded greedy answers through a draft store.

    The memory starts empty, or warm, and grows from trace to trace.
    """
    from lookahead.bench.data.folder import find_data

    file, warm = find_data(file), warm and find_data(warm)
    if experiment is not None:
        _experiment(experiment, file, seed, json, report)
        return
    if report is not None:
        message = "--report is of an experiment: name one with --experiment, or use --json"
        raise ConfigError(message)
    config = LookaheadConfig(branch_length=branch_length)
    sizes = options.integers_in("--draft-tokens", draft_tokens)

    from lookahead.bench.data.traces import read_traces
    from lookahead.bench.plotting.plot_style import check_can_draw
    from lookahead.bench.plotting.plots import plot_calibration

    makers = _makers(store or ["log"], max_nodes, peers=peers)
    costed = _costed(makers) if costs else {}
    traces = read_traces(file)
    warming = read_traces(warm) if warm else []
    for path in filter(None, (json, calibration)):
        check_can_write(path)
    if calibration:
        check_can_draw(calibration)
    found = {**_about(file, traces, warm, warming, config), "recycling": recycling}
    found["memory_nodes"] = max_nodes
    found["results"] = _replayed(makers, config, traces, warming, sizes, memory_tokens, recycling=recycling)
    if costs:
        found |= {"memory_tokens": memory_tokens, "costs": _costs(costed, traces, sizes, memory_tokens)}
    _print(found)
    if json:
        write_json(json, found)
    if calibration:
        plot_calibration(found["results"], calibration)


def _experiment(name: str, file: Path, seed: int, json: Path | None, report: Path | None) -> None:
    """Replay an experiment's variants, show and write what comes of them."""
    from rich.console import Console

    from lookahead.bench.data.traces import read_traces
    from lookahead.bench.replay.experiments import make_experiment, run_experiment
    from lookahead.bench.replay.tables import experiment_tables
    from lookahead.bench.report.markdown import check_folder, write_replay_report
    from lookahead.bench.run.environment import describe_machine, load_average

    experiment, traces = make_experiment(name), read_traces(file)
    if json is not None:
        check_can_write(json)
    if report is not None:
        check_folder(report)
    found: dict[str, Any] = {**describe_call(), "environment": describe_machine(load_average())}
    found |= {**describe_file(file), "traces": len(traces), "seed": seed}
    found |= {"experiment": name, "question": experiment.question}
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


def _about(
    file: Path, traces: "list[Trace]", warm: Path | None, warming: "list[Trace]", config: LookaheadConfig
) -> dict[str, Any]:
    """When, how and on what: what a report says beside its figures."""
    from lookahead.bench.run.environment import describe_machine, load_average

    about: dict[str, Any] = {**describe_call(), "environment": describe_machine(load_average())}
    about |= {**describe_file(file), "traces": len(traces), "memory": "warm" if warm else "cold"}
    if warm:
        about["warmed_with"] = {**describe_file(warm), "traces": len(warming)}
    return {**about, "branch_length": config.branch_length}


def _makers(stores: list[str], max_nodes: int | None, *, peers: bool) -> Makers:
    """Return the makers of what is replayed; says so where a peer is not installed."""
    from lookahead.bench.replay.drafters import PEERS, make_replayed
    from lookahead.bench.replay.peers.arctic import INSTALL, arctic_is_installed

    asked = [*stores, *PEERS] if peers else stores
    if peers and not arctic_is_installed():
        notices.print(f"arctic-inference is not installed, its rows are left out; to have them: {INSTALL}")
        asked = [name for name in asked if name in stores or not name.startswith("arctic")]
    return make_replayed(asked, max_nodes=max_nodes)


def _costed(makers: Makers) -> Makers:
    """Return those of the makers whose costs are measured.

    Raises:
        ConfigError: there are none.
    """
    from lookahead.bench.replay.drafters import COSTED

    costed = {name: make for name, make in makers.items() if name in COSTED}
    if not costed:
        message = f"--costs measures {', '.join(sorted(COSTED))}, none of which is in {', '.join(makers)}"
        raise ConfigError(message)
    return costed


def _replayed(
    makers: Makers,
    config: LookaheadConfig,
    traces: "list[Trace]",
    warming: "list[Trace]",
    sizes: list[int],
    memory_tokens: int,
    *,
    recycling: bool,
) -> list[dict[str, Any]]:
    from lookahead.bench.replay.costs import full_bytes_per_token
    from lookahead.bench.replay.drafters import COSTED
    from lookahead.bench.replay.replay import replay as run_replay
    from lookahead.bench.replay.replay import summarise_replay

    rows = []
    with notices.status("replaying") as status:
        for name, make in makers.items():
            status.update(f"filling {name}")
            bytes_per_token = full_bytes_per_token(make, traces, memory_tokens) if name in COSTED else None
            for size in sizes:
                status.update(f"replaying {name} with {size} draft tokens")
                drafter = make(config)
                run_replay(drafter, warming, draft_tokens=size, recycling=recycling)
                result = run_replay(drafter, traces, draft_tokens=size, recycling=recycling)
                rows.append(summarise_replay(name, size, result, bytes_per_token))
    return rows


def _costs(
    costed: Makers, traces: "list[Trace]", sizes: list[int], memory_tokens: int
) -> list[dict[str, Any]]:
    from lookahead.bench.replay.costs import measure_costs

    with notices.status("measuring costs") as status:
        return measure_costs(costed, traces, sizes, memory_tokens=memory_tokens, on_progress=status.update)


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console

    from lookahead.bench.replay import tables as replay_tables

    console = Console()
    console.print(replay_tables.acceptance_table(report["results"], report["memory"]))
    console.print()
    console.print(replay_tables.replay_cost_table(report["results"]))
    if report.get("costs"):
        console.print()
        console.print(replay_tables.full_cost_table(report["costs"], report["memory_tokens"]))
