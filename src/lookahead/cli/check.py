"""`lookahead check`: print how a model will be decoded, and why not in a better way."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from lookahead.cli import options
from lookahead.cli.setup import check_can_write, describe_call, notices, prepare_model
from lookahead.errors import ConfigError
from lookahead.files import write_json

if TYPE_CHECKING:
    from lookahead.hf.models.family_table import FamilyRow
    from lookahead.hf.support.probe import ProbeResult


def check(
    model: Annotated[
        str | None,
        typer.Argument(
            help="'embedded', a hub id, a folder or a .gguf file.", show_default="embedded, or --families"
        ),
    ] = None,
    families: Annotated[
        bool, typer.Option("--families", help="Ask about a tiny random model of every family instead.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Also write the report to this file.")] = None,
    dtype: Annotated[
        options.DtypeName | None,
        typer.Option(help="Dtype of the weights.", show_default="bfloat16, families float32"),
    ] = None,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Print how a model will be decoded, and why not in a better way.

    Compares the logits of a small draft in one forward pass with those of one-token steps, as on a model's
    first use. Then compares, bit by bit, the logits of a branch in a tree, in a chain and alone.
    """
    if families and model is not None:
        message = f"both a model, {model!r}, and --families were given; give one of them"
        raise ConfigError(message)
    if json is not None:
        check_can_write(json)
    answer = _check_families(dtype) if families else _check_model(model or "embedded", dtype, device, threads)
    if json is not None:
        write_json(json, {**describe_call(), **answer})


def _check_model(
    name: str, dtype: options.DtypeName | None, device: str | None, threads: int | None
) -> dict[str, Any]:
    loaded, _ = prepare_model(name, (dtype or options.DtypeName.BFLOAT16).value, device, threads)

    from lookahead.hf.support.report import support_report

    with notices.status("comparing logits"):
        report = support_report(loaded)
    typer.echo(report)
    if not report.is_supported:
        raise typer.Exit(code=2)
    return {"model": name, **report.as_dict()}


_MODES = ("tree", "chain", "plain")


def _check_families(dtype: options.DtypeName | None) -> dict[str, Any]:
    with notices.status("asking the probe about every family"):
        import transformers

        from lookahead.hf.machine.dtypes import resolve_dtype
        from lookahead.hf.models.family_table import family_rows
        from lookahead.hf.models.gguf import quiet_transformers

        name = (dtype or options.DtypeName.FLOAT32).value
        with quiet_transformers():
            rows = list(family_rows(resolve_dtype(name)))
    asked = [row for row in rows if row.result is not None]
    counts = Counter(row.result.mode.value for row in asked if row.result is not None)
    summary = ", ".join(f"{counts[mode]} {mode}" for mode in _MODES)
    shaped = Counter(row.reproducible.value for row in asked)
    summary += f"; reproducible: {', '.join(f'{count} {way}' for way, count in sorted(shaped.items()))}"
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(_family_table(asked))
    console.print(f"{len(asked)} families, transformers {transformers.__version__}, {name}: {summary}.\n")
    for reason, names in _by_reason(rows).items():
        console.print(f"- {', '.join(names)}: {reason}")
    return {
        "transformers": transformers.__version__,
        "dtype": name,
        "counts": dict(counts),
        "families": [row.as_dict() for row in asked],
        "skipped": [row.as_dict() for row in rows if row.result is None],
    }


def _family_table(rows: "list[FamilyRow]") -> Table:
    table = Table(box=box.MARKDOWN)
    table.add_column("family", no_wrap=True)
    table.add_column("mode", no_wrap=True)
    table.add_column("reproducible", no_wrap=True)
    table.add_column("worst logit difference, of their spread", justify="right", no_wrap=True)
    for row in rows:
        if row.result is not None:
            table.add_row(row.family, row.result.mode.value, row.reproducible.value, _difference(row.result))
    return table


def _by_reason(rows: "list[FamilyRow]") -> dict[str, list[str]]:
    """The families that are not verified in trees or not reproducibly, by why they are not."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.result is None:
            found.setdefault(f"skipped, {row.skipped}", []).append(row.family)
        elif row.result.reason:
            found.setdefault(f"{row.result.mode.value}, {row.result.reason}", []).append(row.family)
        elif row.why_plain:
            found.setdefault(f"plain where reproducible, {row.why_plain}", []).append(row.family)
    return found


def _difference(result: "ProbeResult") -> str:
    """The worst difference, and how much that is of the logits' spread."""
    if result.difference is None or not result.spread:
        return "-"
    return f"{result.difference:.1e} of {result.spread:.1e}"
