"""`lookahead check`: can a model's drafts be trees, chains, or is every step a plain one?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from lookahead.cli import options
from lookahead.cli.setup import check_can_write, describe_call, notices, prepare_model
from lookahead.config import LookaheadConfig
from lookahead.files import write_json

if TYPE_CHECKING:
    from lookahead.hf.support.probe import ProbeResult
    from lookahead.hf.support.reproducibility import Reproducibility


def check(
    model: Annotated[
        str, typer.Argument(help="'embedded', a hub id, a folder or a .gguf file.")
    ] = "embedded",
    json: Annotated[Path | None, typer.Option(help="Write the answer to this file as well.")] = None,
    dtype: options.Dtype = options.DtypeName.BFLOAT16,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Say how drafts of a model are verified, and whether its text depends on them in its last bits.

    Compares the logits of a small draft in one forward with those of single steps, as is done when a model is
    first used; and, bit by bit, a branch's in a tree, in a chain and alone.
    """
    if json is not None:
        check_can_write(json)
    answer = _check_model(model, dtype, device, threads)
    if json is not None:
        write_json(json, {**describe_call(), **answer})


def _check_model(
    name: str, dtype: options.DtypeName, device: str | None, threads: int | None
) -> dict[str, Any]:
    loaded, _ = prepare_model(name, dtype.value, device, threads)

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


def _difference(result: "ProbeResult") -> str:
    """The worst difference, and how much that is of the logits' spread."""
    if result.difference is None or not result.spread:
        return "-"
    return f"{result.difference:.1e} of {result.spread:.1e}"
