"""The README's figures, written from recorded runs, so that the two cannot drift apart.

`python -m lookahead.bench.readme FOLDER` rewrites what stands between `<!-- figures: NAME -->` and
`<!-- end of figures -->` in FOLDER/README.md from FOLDER/benchmarks, and draws docs/images/speedup.svg there.
To add figures: write what makes them of the records, and give it a line in `FIGURES`.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lookahead.bench.plots import plot_speedups
from lookahead.errors import NotFoundError
from lookahead.files import written_whole

Report = dict[str, Any]
Read = Callable[[str], Report]
"""Returns a recorded run by its file's name."""

PICTURE = Path("docs/images/speedup.svg")
_SPEC_BENCH = "spec-bench-72-bfloat16-cpu.json"
_OTHERS = (
    ("enterprise RAG, {prompts} prompts, memory empty", "bank-rag-24-cold-bfloat16-cpu.json"),
    ("… memory warm with the answers to {warm_rows} others", "bank-rag-24-warm-bfloat16-cpu.json"),
    ("GSM8K, {prompts} prompts", "gsm8k-12-cold-bfloat16-cpu.json"),
)
_CATEGORY_NAMES = {"mt_bench": "MT-bench"}
_MARKED = re.compile(r"(<!-- figures: ([a-z-]+) -->)(.*?)(<!-- end of figures -->)", re.DOTALL)


def written_readme(readme: str, read: Read) -> str:
    """Return the README with its figures as the records have them.

    Args:
        readme: what it says now.
        read: returns a record.

    Raises:
        NotFoundError: it asks for figures of a name that is unknown, or a record is missing.
    """

    def figures(matched: re.Match[str]) -> str:
        begin, name, _, end = matched.groups()
        if name not in FIGURES:
            message = f"figures {name!r} in the README are unknown; choose from {', '.join(FIGURES)}"
            raise NotFoundError(message)
        return begin + FIGURES[name](read) + end

    return _MARKED.sub(figures, readme)


def _spec_bench_table(read: Read) -> str:
    report = read(_SPEC_BENCH)
    where = f"{report['environment']['threads']} CPU cores ({report['environment']['cpu']})"
    heading = (
        f"Spec-Bench, SmolLM2-135M, {report['environment']['dtype']}, {where}",
        "speedup, end to end",
        "decoding alone",
        "prompt lookup, end to end",
        "tokens a forward: Lookahead / prompt lookup",
    )
    lines = [_spec_bench_line(report, None)]
    lines += [_spec_bench_line(report, category) for category in report["prompts"]["by_category"]]
    return _table(heading, lines)


def _spec_bench_line(report: Report, category: str | None) -> tuple[str, ...]:
    def figure(name: str, method: str) -> float:
        return _figure(report, name, method, category)

    bold = "**" if category is None else ""
    name = f"all {report['prompts']['overall']} prompts"
    if category is not None:
        name = _CATEGORY_NAMES.get(category, category.replace("_", " "))
    acceptance = [figure("mean_acceptance_length", method) for method in ("lookahead", "prompt-lookup")]
    return (
        f"{bold}{name}{bold}",
        f"{bold}{figure('speedup', 'lookahead'):.2f}x{bold}",
        f"{figure('decode_speedup', 'lookahead'):.2f}x",
        f"{figure('speedup', 'prompt-lookup'):.2f}x",
        f"{acceptance[0]:.2f} / {acceptance[1]:.2f}",
    )


def _others_table(read: Read) -> str:
    heading = ("other prompts", "speedup, end to end", "decoding alone", "tokens a forward")
    lines = []
    for words, record in _OTHERS:
        report = read(record)
        settings = report["settings"]
        name = words.format(
            prompts=report["prompts"]["overall"], warm_rows=(settings["warmed_with"] or {}).get("rows")
        )
        figures = [_figure(report, name, "lookahead") for name in ("speedup", "decode_speedup")]
        acceptance = _figure(report, "mean_acceptance_length", "lookahead")
        lines.append((name, *(f"{figure:.2f}x" for figure in figures), f"{acceptance:.2f}"))
    return _table(heading, lines)


def _identical(read: Read) -> str:
    report = read(_SPEC_BENCH)
    ours, theirs = (int(_figure(report, "identical", name)) for name in ("lookahead", "prompt-lookup"))
    prompts = report["prompts"]["overall"]
    return f"{ours} of {prompts} (prompt lookup: {theirs} of {prompts})"


def _fixed_sizes(read: Read) -> str:
    """How fast fixed sizes are, of the automatic one, over all records that have both."""
    shares = []
    for record in (_SPEC_BENCH, *(name for _, name in _OTHERS)):
        speeds = read(record)["speedup"]
        fixed = [speeds[name]["overall"] for name in ("lookahead-8", "lookahead-16") if name in speeds]
        shares += [speed / speeds["lookahead"]["overall"] for speed in fixed]
    return f"between {min(shares):.2f} and {max(shares):.2f}"


def _plain(read: Read) -> str:
    return f"{_figure(read(_SPEC_BENCH), 'speedup', 'lookahead-plain'):.2f}x"


FIGURES: dict[str, Callable[[Read], str]] = {
    "spec-bench": _spec_bench_table,
    "other-prompts": _others_table,
    "identical": _identical,
    "fixed-sizes": _fixed_sizes,
    "plain": _plain,
}


def _figure(report: Report, name: str, method: str, category: str | None = None) -> float:
    of_method = report[name][method]
    figure: float = of_method["overall"] if category is None else of_method["by_category"][category]
    return figure


def _table(heading: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    ruler = tuple("---" for _ in heading)
    return "\n" + "\n".join(f"| {' | '.join(line)} |" for line in (heading, ruler, *lines)) + "\n"


def records_in(folder: Path) -> Read:
    """Return what reads the records of a folder.

    Raises:
        NotFoundError: (when reading) there is no such record.
    """

    def read(name: str) -> Report:
        try:
            report: Report = json.loads((folder / name).read_text(encoding="utf-8"))
        except OSError as error:
            message = (
                f"there is no record {folder / name} ({error.strerror}); measure it with lookahead bench"
            )
            raise NotFoundError(message) from error
        return report

    return read


def main() -> None:
    """Rewrite the README and the picture of the folder named on the command line."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    read = records_in(root / "benchmarks")
    readme = root / "README.md"
    text = written_readme(readme.read_text(encoding="utf-8"), read)
    with written_whole(readme) as partial:
        partial.write_text(text, encoding="utf-8")
    with written_whole(root / PICTURE) as partial:
        plot_speedups(read(_SPEC_BENCH), partial)


if __name__ == "__main__":
    main()
