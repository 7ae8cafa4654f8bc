"""`python -m research.bench ROWS …`: `lookahead bench`, with the paper's experiments that users do not need.

It adds the experiments grid, capacity and ablation, the ablated methods, and their tables and pictures.
"""

import re
import sys

from lookahead.bench.methods.registry import LOOKAHEAD, METHODS
from lookahead.bench.plotting.pictures import PICTURES
from lookahead.bench.report.table_maker import FigureTable, number, times
from lookahead.bench.report.tables import TABLES, Summary, overall
from lookahead.bench.run.experiments import EXPERIMENTS, Experiment
from lookahead.cli import main as lookahead
from research.ablations import ABLATED_METHODS
from research.plotting.pictures import LIVE_PICTURES

GRID_LENGTHS = (4, 8, 16, 32, 64)
GRID_DEPTHS = (4, 8, 16, 32)
CAPACITIES_KIB = (64, 256, 1024, 4096)

_GRID = re.compile(r"lookahead-(\d+)x(\d+)")

RESEARCH_EXPERIMENTS = (
    Experiment(
        name="grid",
        question="How much to draft, and how deep?",
        methods=tuple(
            f"{LOOKAHEAD}-{length}x{depth}"
            for length in GRID_LENGTHS
            for depth in GRID_DEPTHS
            if depth < 2 * length
        ),
    ),
    Experiment(
        name="capacity",
        question="How large a memory does it take?",
        methods=tuple(f"{LOOKAHEAD}-{size}KiB" for size in CAPACITIES_KIB),
    ),
    Experiment(
        name="ablation",
        question="What does each idea give?",
        methods=(
            "lookahead-trie",
            "lookahead-trie-without-prompts",
            "lookahead-trie-without-earlier-answers",
            "lookahead-trie-without-answers",
            "lookahead-trie-without-elimination",
            "lookahead-parallel",
            "llma",
            "lookahead-log",
        ),
    ),
)


def speed_grid(summary: Summary) -> FigureTable:
    """Return the decoding speedup by decoding and branch length."""
    cells = _cells(summary, "decode_speedup")
    shown = {cell: times(figure) for cell, figure in cells.items()}
    return _grid("Speedup in decoding, by decoding length and branch length", shown)


def acceptance_grid(summary: Summary) -> FigureTable:
    """Return the mean acceptance length by decoding and branch length."""
    cells = _cells(summary, "mean_acceptance_length")
    shown = {cell: number(figure) for cell, figure in cells.items()}
    return _grid("Mean acceptance length, by decoding length and branch length", shown)


def _cells(summary: Summary, name: str) -> dict[tuple[int, int], float | None]:
    matched = ((method, _GRID.fullmatch(method)) for method in summary["tokens_per_second"])
    return {
        (int(found[1]), int(found[2])): overall(summary, name, method) for method, found in matched if found
    }


def _grid(title: str, cells: dict[tuple[int, int], str]) -> FigureTable:
    lengths, depths = (sorted({cell[axis] for cell in cells}) for axis in (0, 1))
    rows = tuple((str(length), *(cells.get((length, depth), "-") for depth in depths)) for length in lengths)
    return FigureTable(title, ("decoding length", *(f"{depth} deep" for depth in depths)), rows)


def register() -> None:
    """Add the methods, experiments, tables and pictures to the registries of `lookahead bench`."""
    METHODS.update(ABLATED_METHODS)
    EXPERIMENTS.update({experiment.name: experiment for experiment in RESEARCH_EXPERIMENTS})
    TABLES.extend([speed_grid, acceptance_grid])
    PICTURES.update(LIVE_PICTURES)


def main() -> None:
    """Run `lookahead bench` with the additions."""
    register()
    sys.argv.insert(1, "bench")
    lookahead()


if __name__ == "__main__":
    main()
