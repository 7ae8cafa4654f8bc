"""What the probe decides for each family: the table of docs/concepts/families.md, and its JSON."""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from rich import box
from rich.console import Console
from rich.table import Table

from lookahead.cli.setup import check_can_write, describe_call, notices
from lookahead.config import LookaheadConfig
from lookahead.errors import first_line
from lookahead.files import write_json
from lookahead.hf.machine.dtypes import resolve_dtype
from lookahead.hf.models.gguf import quiet_transformers
from lookahead.hf.steps.compiled_cpu import unsupported_reason
from lookahead.hf.steps.verification import VerificationMode
from lookahead.hf.support.probe import ProbeResult, probe
from lookahead.hf.support.reproducibility import ReproducibleMethod, reproducible_method_of
from research.families.families import FAMILIES, family_model, is_installed

_MODES = ("tree", "chain", "plain")


@dataclass(frozen=True)
class FamilyRow:
    """One family.

    Attributes:
        family: Its key in `FAMILIES`.
        model_type: transformers' name of the architecture.
        result: The probe's result; None if the family was skipped.
        skipped: Why the family was skipped; empty otherwise.
        reproducible: How steps are done with `reproducible=True`.
        why_plain: Why these steps are plain although drafts can be verified; empty otherwise.
    """

    family: str
    model_type: str
    result: ProbeResult | None = None
    skipped: str = ""
    reproducible: ReproducibleMethod = ReproducibleMethod.PLAIN
    why_plain: str = ""

    def as_dict(self) -> dict[str, str | float | None]:
        """Return the row as JSON-serialisable values."""
        if self.result is None:
            return {"family": self.family, "model_type": self.model_type, "reason": self.skipped}
        return {
            "family": self.family,
            "model_type": self.model_type,
            "mode": self.result.mode.value,
            "reproducible": self.reproducible.value,
            "worst_logit_difference": self.result.difference,
            "logit_spread": self.result.spread,
            "reason": self.result.reason,
        }


def family_rows(dtype: torch.dtype = torch.float32) -> Iterator[FamilyRow]:
    """Probe each family's tiny model, in the order of their names."""
    for family in sorted(FAMILIES):
        model_type = FAMILIES[family].model_type
        if not is_installed(family):
            yield FamilyRow(family, model_type, skipped="the installed transformers does not know it")
            continue
        try:
            model = family_model(family, dtype)
        except Exception as problem:  # noqa: BLE001  # other versions know some by other settings
            yield FamilyRow(family, model_type, skipped=f"{type(problem).__name__}: {first_line(problem)}")
            continue
        result = probe(model)
        exact = probe(
            model,
            tries_compiled=not unsupported_reason(model),
            fixed_width=LookaheadConfig(reproducible=True).fixed_width,
        )
        only_plain = exact.mode is VerificationMode.PLAIN and result.mode is not VerificationMode.PLAIN
        reason = exact.reason if only_plain else ""
        yield FamilyRow(family, model_type, result, "", reproducible_method_of(exact.verification), reason)


def main(arguments: Sequence[str] | None = None) -> None:
    """Probe every family, print the table and the reasons, and write them as JSON if asked to."""
    parser = argparse.ArgumentParser(prog="families.py", description="Probe a tiny model of every family.")
    parser.add_argument("--json", type=Path, help="write the table to this file")
    parser.add_argument("--dtype", default="float32", help="number format of the weights")
    given = parser.parse_args(arguments)
    if given.json is not None:
        check_can_write(given.json)
    with notices.status("probing every family"), quiet_transformers():
        rows = list(family_rows(resolve_dtype(given.dtype)))
    counts = _print(rows, given.dtype)
    if given.json is not None:
        call = describe_call("python scripts/families.py")
        write_json(given.json, {**call, **_as_dict(rows, counts, given.dtype)})


def _print(rows: Sequence[FamilyRow], dtype: str) -> Counter[str]:
    """Print the table, a summary and the reasons; return the number of families by mode."""
    probed = [row for row in rows if row.result is not None]
    counts = Counter(row.result.mode.value for row in probed if row.result is not None)
    ways = Counter(row.reproducible.value for row in probed)
    summary = ", ".join(f"{counts[mode]} {mode}" for mode in _MODES)
    summary += f"; reproducible: {', '.join(f'{count} {way}' for way, count in sorted(ways.items()))}"
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(_table(probed))
    console.print(f"{len(probed)} families, transformers {transformers.__version__}, {dtype}: {summary}.\n")
    for reason, names in _by_reason(rows).items():
        console.print(f"- {', '.join(names)}: {reason}")
    return counts


def _as_dict(rows: Sequence[FamilyRow], counts: Counter[str], dtype: str) -> dict[str, Any]:
    return {
        "transformers": transformers.__version__,
        "dtype": dtype,
        "counts": dict(counts),
        "families": [row.as_dict() for row in rows if row.result is not None],
        "skipped": [row.as_dict() for row in rows if row.result is None],
    }


def _table(rows: Sequence[FamilyRow]) -> Table:
    table = Table(box=box.MARKDOWN)
    for heading in ("family", "mode", "reproducible"):
        table.add_column(heading, no_wrap=True)
    table.add_column("worst logit difference, of their spread", justify="right", no_wrap=True)
    for row in rows:
        if row.result is not None:
            table.add_row(row.family, row.result.mode.value, row.reproducible.value, _difference(row.result))
    return table


def _by_reason(rows: Sequence[FamilyRow]) -> dict[str, list[str]]:
    """Return the families that are skipped or decoded in plain steps, by the reason."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.result is None:
            found.setdefault(f"skipped, {row.skipped}", []).append(row.family)
        elif row.result.reason:
            found.setdefault(f"{row.result.mode.value}, {row.result.reason}", []).append(row.family)
        elif row.why_plain:
            found.setdefault(f"plain where reproducible, {row.why_plain}", []).append(row.family)
    return found


def _difference(result: ProbeResult) -> str:
    """Return the largest difference between logits, and their spread."""
    if result.difference is None or not result.spread:
        return "-"
    return f"{result.difference:.1e} of {result.spread:.1e}"
