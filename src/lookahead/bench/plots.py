"""A benchmark's speedups by category as a picture.

`python -m lookahead.bench.plots REPORT.json PICTURE.svg` draws a recorded report.
"""

import json
import sys
from pathlib import Path
from typing import Any

from lookahead.errors import MissingDependencyError

_COLOURS = {"prompt-lookup": "#b8bec7", "lookahead-plain": "#dfe3e8", "lookahead": "#2f6fdd"}


def plot_speedups(report: dict[str, Any], path: Path) -> None:
    """Draw decoding speedups over `transformers`, a group of bars for each category.

    Args:
        report: as `lookahead bench --json` writes it.
        path: the picture; its ending says which format (.svg, .png, .pdf).

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  # an extra, wanted for pictures alone
    except ImportError:
        message = "drawing needs matplotlib; install it with: pip install 'lookahead-llm[plot]'"
        raise MissingDependencyError(message) from None
    speedups = report["decode_speedup"]
    methods = [name for name in _COLOURS if name in speedups]
    categories = ["overall", *report["prompts"]["by_category"]]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(methods)
    for place, method in enumerate(methods):
        figures = speedups[method]
        heights = [figures["overall"], *(figures["by_category"][name] for name in categories[1:])]
        lefts = [index + (place - (len(methods) - 1) / 2) * width for index in range(len(categories))]
        bars = axes.bar(lefts, heights, width, label=method, color=_COLOURS[method])
        if method == "lookahead":
            axes.bar_label(bars, fmt="%.2fx", fontsize=8, padding=1)
    axes.axhline(1, color="#444444", linewidth=0.8)
    axes.set_xticks(range(len(categories)), [name.replace("_", " ") for name in categories])
    axes.set_ylabel("decoding speed ÷ transformers")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    environment = report["environment"]
    axes.set_title(
        f"{report['prompts']['overall']} prompts, {environment['model']}, {environment['dtype']}, "
        f"{environment['threads']} threads, greedy, memory {report['memory']}",
        fontsize=9,
        loc="left",
    )
    figure.savefig(path)


def main() -> None:
    """Draw the report named on the command line."""
    report_path, picture_path = map(Path, sys.argv[1:3])
    plot_speedups(json.loads(report_path.read_text()), picture_path)


if __name__ == "__main__":
    main()
