"""`lookahead check`: can a model's drafts be trees, chains, or is every step a plain one?"""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from lookahead.cli import options
from lookahead.cli.setup import check_can_write, describe_call, notices, prepare_model
from lookahead.config import LookaheadConfig
from lookahead.errors import ConfigError
from lookahead.files import write_json

if TYPE_CHECKING:
    from lookahead.hf.models.family_table import FamilyRow
    from lookahead.hf.support.probe import ProbeResult
    from lookahead.hf.support.reproducibility import Reproducibility


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
    json: Annotated[Path | None, typer.Option(help="Write the answer to this file as well.")] = None,
    dtype: Annotated[
        options.DtypeName | None,
        typer.Option(help="Number format of the weights.", show_default="bfloat16, families float32"),
    ] = None,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Say how drafts of a model are verified, and whether its text depends on them in its last bits.

    Compares the logits of a small draft in one forward with those of single steps, as is done when a model is
    first used; and, bit by bit, a branch's in a tree, in a chain and alone.
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

    from lookahead.hf.generate.checks import check_model
    from lookahead.hf.machine.dtypes import dtype_name
    from lookahead.hf.support.reproducibility import reproducibility

    check_model(loaded)
    with notices.status("asking the probe"):
        found = reproducibility(loaded, LookaheadConfig(reproducible=True).fixed_width or 1)
    result = found.usual
    table = Table(box=box.SIMPLE_HEAD, show_header=False, show_edge=False, pad_edge=False)
    for title, text in (
        ("model", f"{name} ({type(loaded).__name__}, {dtype_name(loaded.dtype)})"),
        ("mode", f"{result.mode.value}: {_IN_WORDS[result.mode.value]}"),
        ("steps", "fused" if not found.why_not_fused else f"the model's own code: {found.why_not_fused}"),
        ("worst logit difference", _difference(result)),
        ("reason", result.reason or "drafts in one forward give the logits of single steps"),
        ("text depends on drafts", f"yes: {found.dependence}" if found.dependence else "no"),
        ("reproducible=True", _way_in_words(found)),
        ("what it costs", _cost_in_words(found)),
    ):
        table.add_row(title, text)
    Console(highlight=False).print(table)
    return {
        "model": name,
        "architecture": type(loaded).__name__,
        "dtype": dtype_name(loaded.dtype),
        "mode": result.mode.value,
        "worst_logit_difference": result.difference,
        "logit_spread": result.spread,
        "reason": result.reason,
        "why_not_fused": found.why_not_fused,
        "dependence_on_drafts": found.dependence,
        "reproducible": {
            "way": found.way.value,
            "tokens_a_forward": found.shape,
            "reason": found.reason,
            "step_times_that_of_1_token": found.of_one,
            "step_times_that_of_8_tokens": found.of_small,
        },
    }


def _way_in_words(found: "Reproducibility") -> str:
    if found.way.value == "fused":
        return "fused steps, whose bits depend on no draft"
    if found.shape is not None:
        return f"one shape: every forward has {found.shape} tokens, each branch in the order of the text"
    return f"plain steps, without drafts: {found.reason}"


def _cost_in_words(found: "Reproducibility") -> str:
    if found.of_one is None or found.of_small is None:
        return "nothing" if found.way.value == "fused" else "the drafts"
    return f"a step takes {found.of_one:.2f} times that of 1 token, {found.of_small:.2f} times that of 8"


_IN_WORDS = {
    "tree": "a draft tree is verified in one forward",
    "chain": "drafts have one branch",
    "plain": "one token a step, no drafts",
}


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
    summary = ", ".join(f"{counts[mode]} {mode}" for mode in _IN_WORDS)
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
