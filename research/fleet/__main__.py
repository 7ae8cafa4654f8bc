"""`python -m research.fleet`: what drafts, memories and their exchange would be in a fleet of replicas.

    python -m research.fleet --traces TRACES.jsonl.gz --replicas 1,10,100,1000

Every combination of the options with several values is simulated.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from lookahead.bench.data.datasets import find_data
from lookahead.bench.data.traces import read_traces
from lookahead.cli.measure import replay as command
from lookahead.cli.options import integers_in
from lookahead.cli.setup import check_can_write, deliver, describe_call, describe_file, notices
from lookahead.drafting.memory.journal import MAX_JOURNAL_TOKENS
from lookahead.errors import ConfigError
from lookahead.version import __version__
from research.command import run_command
from research.fleet.routes import Route
from research.fleet.simulation import FleetSettings
from research.fleet.study import ASSUMED, Study, run_study
from research.fleet.tables import costs_table, drafts_table
from research.fleet.traffic import TrafficSettings

NEVER = "never"
Value = TypeVar("Value")
app = typer.Typer(pretty_exceptions_enable=False)

Traces = Annotated[
    Path,
    typer.Option(help="Traces {id, category, prompt_ids, output_ids[, top8_ids]}, .jsonl or .jsonl.gz."),
]
Replicas = Annotated[str, typer.Option(help="Numbers of replicas, separated by commas.")]
Routes = Annotated[str, typer.Option(help=f"Of {', '.join(Route)}; several separated by commas.")]
ExchangeS = Annotated[
    str, typer.Option(help=f"Seconds between two exchanges, or {NEVER}; several separated by commas.")
]
Repeated = Annotated[
    str,
    typer.Option(help="Share of requests that repeat an earlier question; several separated by commas."),
]
MemoryMib = Annotated[str, typer.Option(help="Cap of each memory in MiB; several separated by commas.")]
Rate = Annotated[float, typer.Option(help="Requests per second of each replica, on average.")]
Tenants = Annotated[int, typer.Option(help="Tenants for each replica.")]
FixedTraffic = Annotated[
    bool,
    typer.Option("--fixed-traffic", help="--rate and --tenants are those of the whole fleet, however large."),
]
Zipf = Annotated[float, typer.Option(help="Exponent of the tenants' Zipf distribution; 0 for all alike.")]
DurationS = Annotated[float, typer.Option(help="Seconds that are simulated.")]
WarmUpS = Annotated[
    float | None,
    typer.Option(help="Measure only requests after so many seconds.", show_default="half of --duration-s"),
]
Watched = Annotated[int, typer.Option(help="How many replicas have a memory, at most.")]
Measured = Annotated[int, typer.Option(help="How many requests are measured, at most.")]
DraftTokens = Annotated[int, typer.Option(help="Draft tokens per forward pass, without the current one.")]
BoardTokens = Annotated[int, typer.Option(help="The most tokens on the board; older updates are lost.")]
PrefixTokens = Annotated[int, typer.Option(help="Tokens of a prompt that the route by prefix goes by.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all that is drawn.")]


@app.command()
def fleet(
    traces: Traces,
    replicas: Replicas = "1,10,100,1000",
    route: Routes = "tenant,prefix,random",
    exchange_s: ExchangeS = "never,1,10,60",
    repeated: Repeated = "0.3",
    memory_mib: MemoryMib = "256",
    rate: Rate = 1.0,
    tenants: Tenants = 5,
    fixed_traffic: FixedTraffic = False,
    zipf: Zipf = 1.0,
    duration_s: DurationS = 120.0,
    warm_up_s: WarmUpS = None,
    watched: Watched = 4,
    measured: Measured = 240,
    draft_tokens: DraftTokens = 16,
    board_tokens: BoardTokens = MAX_JOURNAL_TOKENS,
    prefix_tokens: PrefixTokens = 64,
    seed: Seed = 0,
    json: command.Json = None,
) -> None:
    """Simulate replicas behind a router that exchange what their memories learned."""
    study = Study(
        traffic=TrafficSettings(
            duration_s=duration_s, requests_per_s=rate, tenants=tenants, zipf=zipf, seed=seed
        ),
        fleet=FleetSettings(
            board_tokens=board_tokens,
            draft_tokens=draft_tokens,
            prefix_tokens=prefix_tokens,
            watched=watched,
            measured=measured,
            warm_up_s=duration_s / 2 if warm_up_s is None else warm_up_s,
        ),
        is_traffic_fixed=fixed_traffic,
        replicas=integers_in("--replicas", replicas),
        routes=_listed("--route", route, Route, f"some of {', '.join(Route)}"),
        intervals=_listed("--exchange-s", exchange_s, _interval, f"seconds, or {NEVER}"),
        repeated=_listed("--repeated", repeated, float, "numbers from 0 to 1"),
        memory_bytes=[size * 2**20 for size in integers_in("--memory-mib", memory_mib)],
    )
    file = find_data(traces)
    recorded = read_traces(file)
    if json is not None:
        check_can_write(json)
    report: dict[str, Any] = {
        "command": describe_call("python -m research.fleet")["command"],
        "lookahead": __version__,
        **describe_file(file),
        "traces": len(recorded),
        "settings": study.about(),
        "assumed": list(ASSUMED),
    }
    with notices.status("simulating") as status:
        report["results"] = run_study(study, recorded, on_progress=status.update)
    deliver(json, report, lambda: _print(report))


def _print(report: dict[str, Any]) -> None:
    console = Console()
    for table in (drafts_table(report["results"]), costs_table(report["results"])):
        console.print(table.as_rich())
        console.print()
    for sentence in report["assumed"]:
        console.print(f"- {sentence}", highlight=False)


def _interval(text: str) -> float | None:
    return None if text == NEVER else float(text)


def _listed(option: str, listed: str, parse: Callable[[str], Value], allowed: str) -> list[Value]:
    """Return the values of an option that lists them separated by commas.

    Raises:
        ConfigError: One of them is none.
    """
    try:
        return [parse(part.strip()) for part in listed.split(",")]
    except ValueError:
        message = f"{option} {listed!r} is not allowed; give {allowed}, separated by commas"
        raise ConfigError(message) from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(app, arguments)


if __name__ == "__main__":
    main()
