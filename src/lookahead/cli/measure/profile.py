"""`lookahead profile`: where the time of a decoding step goes, and how far it is from the lower bound."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookahead.cli import options
from lookahead.cli.setup import (
    check_can_write,
    describe_call,
    notices,
    prepare_model,
    prepare_random_model,
    warn_when_busy,
)
from lookahead.errors import ConfigError
from lookahead.files import write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ModelName = Annotated[
    str | None,
    typer.Argument(help="'embedded', a hub id, a folder or a .gguf file.", show_default="embedded"),
]
RandomWeights = Annotated[
    str | None,
    typer.Option(
        help="Instead of a model, random weights in its shape: llama-2-7b, llama-2-13b, qwen2.5-0.5b, "
        "qwen2.5-7b, or a config.json.",
        show_default=False,
    ),
]
Layers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="With --random-weights: number of layers; all figures are of these layers.",
        show_default="all",
    ),
]
Contexts = Annotated[
    list[int] | None,
    typer.Option(help="Tokens before the step; repeatable.", show_default="200, 1000, 4000"),
]
Sizes = Annotated[str, typer.Option(help="Nodes of the draft trees, separated by commas.")]
Repeats = Annotated[int, typer.Option(help="Measured rounds over all sizes; the report has medians.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write every figure to this file.")]
Plot = Annotated[
    Path | None, typer.Option(help="Draw the cost of forward passes by size to this .svg, .png or .pdf.")
]


def profile(
    model: ModelName = None,
    random_weights: RandomWeights = None,
    layers: Layers = None,
    context: Contexts = None,
    sizes: Sizes = "1,8,16,32,64",
    repeats: Repeats = 15,
    compiled_cpu: options.CompiledCpu = True,
    dtype: options.Dtype = options.DtypeName.BFLOAT16,
    device: options.Device = None,
    threads: options.Threads = None,
    json: Json = None,
    plot: Plot = None,
) -> None:
    """Show where the time of a decoding step goes, and how far it is from the lower bound by bandwidth.

    Verified forward passes take turns with generate's own steps. Then come the parts of a real step, the time
    to the first token and peak memory.
    """
    _check_choice(model, random_weights, layers)
    listed = options.integers_in("--sizes", sizes)

    from lookahead.bench.plotting.kit import check_can_draw
    from lookahead.bench.profile.profiling import ProfilePlan, profile_model
    from lookahead.bench.run.environment import describe_environment, load_average

    plan = ProfilePlan(
        contexts=tuple(context or (200, 1000, 4000)),
        sizes=tuple(sorted({1, *listed})),
        repeats=repeats,
        compiled_cpu=compiled_cpu,
    )
    for path in filter(None, (json, plot)):
        check_can_write(path)
    if plot is not None:
        check_can_draw(plot)
    load_at_start = load_average()
    loaded, name = _prepared(model, random_weights, layers, dtype.value, device, threads)
    environment = describe_environment(loaded, name, load_at_start)
    warn_when_busy(environment)
    with notices.status("profiling") as status:
        profiled = profile_model(loaded, plan, on_progress=status.update)
    settings = {"contexts": list(plan.contexts), "sizes": list(plan.sizes), "repeats": repeats}
    settings |= {"random_weights": random_weights, "layers": layers}
    _report({**describe_call(), "settings": settings, "environment": environment, **profiled}, json, plot)


def _check_choice(model: str | None, random_weights: str | None, layers: int | None) -> None:
    """Check that the options do not exclude each other.

    Raises:
        ConfigError: Two options exclude each other.
    """
    if model is not None and random_weights is not None:
        message = f"both a model, {model!r}, and --random-weights were given; give one of them"
        raise ConfigError(message)
    if layers is not None and random_weights is None:
        message = f"--layers {layers} is for --random-weights alone; add it, or leave --layers out"
        raise ConfigError(message)


def _prepared(
    model: str | None,
    random_weights: str | None,
    layers: int | None,
    dtype: str,
    device: str | None,
    threads: int | None,
) -> "tuple[PreTrainedModel, str]":
    """Return the model to profile, and its name."""
    if random_weights is None:
        name = model or "embedded"
        return prepare_model(name, dtype, device, threads)[0], name
    made = prepare_random_model(random_weights, dtype, device, threads, layers=layers)
    cut = "" if layers is None else f", {layers} {'layer' if layers == 1 else 'layers'}"
    return made, f"{random_weights} (random weights{cut})"


def _report(report: dict[str, Any], json: Path | None, plot: Path | None) -> None:
    """Print the figures; write and draw them if asked to."""
    if json is not None:
        write_json(json, report)
    _print(report)
    if plot is not None:
        from lookahead.bench.profile.plots import plot_profile

        plot_profile(report, plot)


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console

    from lookahead.bench.profile.tables import (
        critical_length_line,
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
        for table in (share_table(context), summary_table(context)):
            console.print()
            console.print(table.as_rich())
