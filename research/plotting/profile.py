"""A picture of a profile: what a verified forward pass costs by its size, beside a step of `generate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from research.plotting.kit import SHADES, new_figure, save, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINES = SHADES[1:]  # the lightest is hard to see as a line
_MARKERS = "osD^v"
"""Contexts differ in shade and in marker, so no line is recognised only by its colour."""


def plot_profile(report: dict[str, Any], path: Path) -> None:
    """Draw T(n) ÷ a step of `generate` by n, a line for each context, with the CDL marked on it.

    Args:
        report: A report of `lookahead profile --json`.
        path: The picture; its suffix chooses the format (.svg, .png, .pdf).

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    figure = new_figure(7, 4)
    axes = figure.subplots()
    contexts = report["contexts"]
    axes.axhline(1, color="#444444", linewidth=0.8, linestyle="--")
    for index, context in enumerate(contexts):
        shade = _LINES[index % len(_LINES)]
        _draw_context(axes, context, shade, _MARKERS[index % len(_MARKERS)])
    sizes = sorted({step["nodes"] for context in contexts for step in context["steps"]})
    apart = [size for size in sizes if size == 1 or size >= sizes[-1] / 16]  # labels that do not overlap
    axes.set_xticks(apart, [str(size) for size in apart])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("n, tokens that one forward pass verifies")
    axes.set_ylabel("T(n) ÷ one step of generate")
    tidy(axes)
    axes.legend(frameon=False, fontsize=8, title="context; ring: CDL", title_fontsize=8)
    environment = report["environment"]
    axes.set_title(
        f"{environment['model']}, {environment['dtype']}, {environment['device']}, "
        f"{environment['threads']} threads",
        fontsize=9,
        loc="left",
    )
    save(figure, path)


def _draw_context(axes: "Axes", context: dict[str, Any], shade: str, marker: str) -> None:
    sizes = [step["nodes"] for step in context["steps"]]
    ratios = [step["over_generate"] for step in context["steps"]]
    critical = context["critical_decoding_length"]
    at_least = "≥ " if critical["is_at_least"] else ""
    label = f"{context['context_tokens']:,} tokens, CDL {at_least}{critical['tokens']}"
    axes.plot(sizes, ratios, marker=marker, markersize=4, color=shade, label=label)
    height = float(np.interp(critical["tokens"], sizes, ratios))
    axes.plot([critical["tokens"]], [height], "o", markersize=11, fillstyle="none", color=shade)
    axes.vlines(critical["tokens"], 0, height, color=shade, linewidth=0.8, linestyle=":")
