"""`lookahead profile`: where the time of a decoding step goes, and how far it is from the lower bound."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookahead.cli import options
from lookahead.cli.setup import (
    check_can_write,
    deliver,
    describe_call,
    notices,
    prepare_model,
    warn_when_busy,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lookahead.bench.profile.profiling import ProfilePlan

ModelName = Annotated[str, typer.Argument(help="'embedded', a hub id, a folder or a .gguf file.")]
Contexts = Annotated[
    list[int] | None, typer.Option(help="Tokens before the step; repeatable.", show_default="200, 1000, 4000")
]
Sizes = Annotated[str, typer.Option(help="Nodes of the draft trees, separated by commas.")]
Repeats = Annotated[int, typer.Option(help="Measured rounds over all sizes; the report has medians.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write every figure to this file.")]


def profile(
    model: ModelName = "embedded",
    context: Contexts = None,
    sizes: Sizes = "1,8,16,32,64",
    repeats: Repeats = 15,
    compiled_cpu: options.CompiledCpu = True,
    dtype: options.Dtype = options.DtypeName.BFLOAT16,
    device: options.Device = None,
    threads: options.Threads = None,
    json: Json = None,
) -> None:
    """Show where the time of a decoding step goes, and how far it is from the lower bound by bandwidth.

    Verified forward passes take turns with generate's own steps. Then come the parts of a real step, the time
    to the first token and peak memory.
    """
    from lookahead.bench.run.environment import load_average

    plan = plan_of(context, sizes, repeats, compiled_cpu=compiled_cpu)
    if json is not None:
        check_can_write(json)
    load_at_start = load_average()
    loaded = prepare_model(model, dtype.value, device, threads)[0]
    report = {**describe_call(), **profile_report(loaded, model, plan, load_at_start)}
    deliver(json, report, lambda: print_profile(report))


def plan_of(contexts: list[int] | None, sizes: str, repeats: int, *, compiled_cpu: bool) -> "ProfilePlan":
    """Return what the options ask for.

    Raises:
        ConfigError: A number is malformed or out of range.
    """
    listed = options.integers_in("--sizes", sizes)

    from lookahead.bench.profile.profiling import ProfilePlan

    return ProfilePlan(
        contexts=tuple(contexts or (200, 1000, 4000)),
        sizes=tuple(sorted({1, *listed})),
        repeats=repeats,
        compiled_cpu=compiled_cpu,
    )


def profile_report(
    model: "PreTrainedModel", name: str, plan: "ProfilePlan", load_at_start: float | None
) -> dict[str, Any]:
    """Profile a model; return the figures, the settings and the environment."""
    from lookahead.bench.profile.profiling import profile_model
    from lookahead.bench.run.environment import describe_environment

    environment = describe_environment(model, name, load_at_start)
    warn_when_busy(environment)
    with notices.status("profiling") as status:
        profiled = profile_model(model, plan, on_progress=status.update)
    settings = {"contexts": list(plan.contexts), "sizes": list(plan.sizes), "repeats": plan.repeats}
    settings |= {"random_weights": None, "layers": None}  # research.profile has these
    return {"settings": settings, "environment": environment, **profiled}


def print_profile(report: dict[str, Any]) -> None:
    """Print the tables of a profile."""
    from rich.console import Console

    from lookahead.bench.profile.tables import (
        critical_length_line,
        host_table,
        share_table,
        step_table,
        summary_table,
    )

    if report["skipped_contexts"]:
        skipped = ", ".join(map(str, report["skipped_contexts"]))
        notices.print(f"skipped, the model has too few positions for contexts of: {skipped}", style="yellow")
    if report["verification"] != "tree":
        notices.print(
            f"drafts of this model have one branch: {report['verification_reason']}", style="yellow"
        )
    console = Console(highlight=False)
    bandwidth = report["bandwidth"]
    console.print(
        f"{report['weight_bytes'] / 1e6:,.1f} MB of weights read in a step, "
        f"{bandwidth['bytes_per_s'] / 1e9:.1f} GB/s measured ({bandwidth['kernel']})"
    )
    for context in report["contexts"]:
        console.print()
        console.print(step_table(context).as_rich())
        console.print()
        console.print(critical_length_line(context, allowance=report["cdl_allowance"]))
        for table in (share_table(context), host_table(context), summary_table(context)):
            if table is not None:
                console.print()
                console.print(table.as_rich())
