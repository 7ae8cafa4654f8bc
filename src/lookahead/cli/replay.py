"""`lookahead replay`: how many tokens a step drafts would yield, from recorded answers, with no model."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lookahead.cli import options
from lookahead.cli.setup import notices
from lookahead.config import LookaheadConfig
from lookahead.errors import ConfigError

Data = Annotated[
    Path, typer.Argument(help="Traces {id, category, prompt_ids, output_ids}, .jsonl or .jsonl.gz.")
]
Stores = Annotated[
    list[str] | None,
    typer.Option(
        help="log, trie, trie-parallel, trie-single, prompt-lookup; repeatable.", show_default="trie"
    ),
]
Sizes = Annotated[
    str, typer.Option(help="Draft tokens a step, the current one not counted; several by commas.")
]
MemoryNodes = Annotated[int, typer.Option(min=64, help="Hard cap on the draft memory, in trie nodes.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write every figure here.")]


def replay(
    file: Data,
    store: Stores = None,
    draft_tokens: Sizes = "8,16,32,64",
    branch_length: options.BranchLength = options.DEFAULTS.branch_length,
    memory_nodes: MemoryNodes = options.DEFAULTS.memory_nodes,
    json: Json = None,
) -> None:
    """Replay recorded greedy answers through a draft store.

    The memory starts empty and grows from trace to trace.
    """
    config = LookaheadConfig(branch_length=branch_length, memory_nodes=memory_nodes)
    sizes = _sizes(draft_tokens)

    from lookahead.bench.replay import replay as run_replay
    from lookahead.bench.replay import summarise_replay
    from lookahead.bench.replayed import make_replayed
    from lookahead.bench.report import check_can_write, write_json
    from lookahead.bench.traces import read_traces

    makers = make_replayed(store or ["trie"])
    traces = read_traces(file)
    if json is not None:
        check_can_write(json)
    rows = []
    with notices.status("replaying") as status:
        for name, make in makers.items():
            for size in sizes:
                status.update(f"replaying {name} with {size} draft tokens")
                result = run_replay(make(config), traces, draft_tokens=size)
                rows.append(summarise_replay(name, size, result))
    _print(rows)
    if json is not None:
        about = {"data": file.name, "traces": len(traces), "branch_length": branch_length, "memory": "cold"}
        write_json(json, {**about, "memory_nodes": memory_nodes, "results": rows})


def _sizes(listed: str) -> list[int]:
    try:
        sizes = [int(size) for size in listed.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        message = (
            f"--draft-tokens {listed!r} is not allowed; give positive integers separated by commas: 8,16"
        )
        raise ConfigError(message)
    return sizes


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console

    from lookahead.bench.tables import compact_table, number

    console = Console()
    categories = list(rows[0]["by_category"])
    table = compact_table("Mean acceptance length, memory growing from empty", "store")
    for heading in ("draft\ntokens", "all", "no\nloops", *(name.replace("_", "\n") for name in categories)):
        table.add_column(heading, justify="right", overflow="fold")
    for row in rows:
        lengths = [row["mean_acceptance_length"], row["without_loops"], *row["by_category"].values()]
        table.add_row(row["store"], str(row["draft_tokens"]), *(number(length) for length in lengths))
    console.print(table)
    console.print()
    costs = compact_table("Cost", "store")
    names = {
        "draft_tokens": "draft\ntokens",
        "propose_us_p50": "propose µs\nmedian",
        "propose_us_p99": "propose µs\np99",
        "insert_us_per_token": "insert µs\na token",
        "bytes_per_token": "bytes\na token",
    }
    for heading in names.values():
        costs.add_column(heading, justify="right")
    for row in rows:
        costs.add_row(row["store"], *(str(row[name]) for name in names))
    console.print(costs)
