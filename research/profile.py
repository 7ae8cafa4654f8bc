"""`python -m research.profile`: `lookahead profile` with pictures, and of shapes without weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from transformers import PreTrainedModel

from lookahead.bench.run.environment import load_average
from lookahead.cli import options
from lookahead.cli.measure import profile as command
from lookahead.cli.setup import check_can_write, describe_call, notices, prepare_model, set_threads
from lookahead.errors import ConfigError
from lookahead.files import write_json
from research.command import run_command
from research.plotting.kit import check_can_draw
from research.plotting.profile import plot_profile
from research.random_weights import random_model

app = typer.Typer(pretty_exceptions_enable=False)

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
Plot = Annotated[
    Path | None, typer.Option(help="Draw the cost of forward passes by size to this .svg, .png or .pdf.")
]


@app.command()
def profile(
    model: ModelName = None,
    random_weights: RandomWeights = None,
    layers: Layers = None,
    context: command.Contexts = None,
    sizes: command.Sizes = "1,8,16,32,64",
    repeats: command.Repeats = 15,
    compiled_cpu: options.CompiledCpu = True,
    dtype: options.Dtype = options.DtypeName.BFLOAT16,
    device: options.Device = None,
    threads: options.Threads = None,
    json: command.Json = None,
    plot: Plot = None,
) -> None:
    """Profile a model, or a model's shape with random weights, and draw the figures."""
    _check_choice(model, random_weights, layers)
    plan = command.plan_of(context, sizes, repeats, compiled_cpu=compiled_cpu)
    for path in filter(None, (json, plot)):
        check_can_write(path)
    if plot is not None:
        check_can_draw(plot)
    load_at_start = load_average()
    loaded, name = _prepared(model, random_weights, layers, dtype.value, device, threads)
    call = describe_call("python -m research.profile")
    report = {**call, **command.profile_report(loaded, name, plan, load_at_start)}
    report["settings"] |= {"random_weights": random_weights, "layers": layers}
    if json is not None:
        write_json(json, report)
    command.print_profile(report)
    if plot is not None:
        plot_profile(report, plot)


def _check_choice(model: str | None, random_weights: str | None, layers: int | None) -> None:
    """Check that the options do not exclude each other.

    Raises:
        ConfigError: Two options exclude each other.
    """
    if model is not None and random_weights is not None:
        message = f"both a model, {model!r}, and --random-weights were given; give one of them"
        raise ConfigError(message)
    if layers is not None and random_weights is None:
        message = f"--layers {layers} is only for --random-weights; add it, or leave --layers out"
        raise ConfigError(message)


def _prepared(
    model: str | None,
    random_weights: str | None,
    layers: int | None,
    dtype: str,
    device: str | None,
    threads: int | None,
) -> tuple[PreTrainedModel, str]:
    """Return the model to profile, and its name."""
    if random_weights is None:
        name = model or "embedded"
        return prepare_model(name, dtype, device, threads)[0], name
    with notices.status(f"creating {random_weights} with random weights in {dtype}"):
        set_threads(threads)
        made = random_model(random_weights, dtype, device, layers=layers)
    cut = "" if layers is None else f", {layers} {'layer' if layers == 1 else 'layers'}"
    return made, f"{random_weights} (random weights{cut})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(app, arguments)


if __name__ == "__main__":
    main()
