"""`lookahead check`: print how a model will be decoded, and why not in a better way."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lookahead.cli import options
from lookahead.cli.setup import check_can_write, deliver, describe_call, notices, prepare_model


def check(
    model: Annotated[
        str, typer.Argument(help="'embedded', a hub id, a folder or a .gguf file.")
    ] = "embedded",
    json: Annotated[Path | None, typer.Option(help="Also write the report to this file.")] = None,
    dtype: options.Dtype = options.DtypeName.BFLOAT16,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Print how a model will be decoded, and why not in a better way.

    Compares the logits of a small draft in one forward pass with those of one-token steps, as on a model's
    first use. Then compares, bit by bit, the logits of a branch in a tree, in a chain and alone.
    """
    if json is not None:
        check_can_write(json)
    loaded, _ = prepare_model(model, dtype.value, device, threads)

    from lookahead.hf.support.report import support_report

    with notices.status("comparing logits"):
        report = support_report(loaded)
    if not report.is_supported:
        typer.echo(report)
        raise typer.Exit(code=2)
    answer: dict[str, Any] = {**describe_call(), "model": model, **report.as_dict()}
    deliver(json, answer, lambda: typer.echo(report))
