"""Write the figures of README and docs/findings.md from recorded runs, so that they always agree.

`python -m research.figures.documents FOLDER` rewrites the text between `<!-- figures: NAME -->` and
`<!-- end of figures -->` in FOLDER's documents from FOLDER/benchmarks, and draws their pictures.
To add figures: write a function of the records, and add a line to the document's `FIGURES`.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

from lookahead.bench.plotting.speedups import plot_speedups
from lookahead.errors import NotFoundError
from lookahead.files import atomic_write
from research.figures import findings, readme
from research.figures.records import Figures, Read, records_in
from research.plotting.pictures import draw_grid, replay_pictures_of

DOCUMENTS: dict[Path, Figures] = {
    Path("README.md"): readme.FIGURES,
    Path("docs/findings.md"): findings.FIGURES,
}
_IMAGES = Path("docs/images")
PICTURES: dict[Path, Callable[[Read, Path], None]] = {
    _IMAGES / "speedup.svg": lambda read, path: plot_speedups(read(readme.SPEC_BENCH), path),
    _IMAGES / "grid.svg": lambda read, path: draw_grid(read(findings.GRID), path),
    _IMAGES / "ablation.svg": lambda read, path: _replayed(read, "ablation", path),
    _IMAGES / "warm-up.svg": lambda read, path: _replayed(read, "warm-up", path),
}
_MARKED = re.compile(r"(<!-- figures: ([a-z0-9-]+) -->)(.*?)(<!-- end of figures -->)", re.DOTALL)


def with_figures(text: str, figures: Figures, read: Read) -> str:
    """Return a document with the figures of the records.

    Args:
        text: The document.
        figures: The figures it may contain.
        read: Returns a record.

    Raises:
        NotFoundError: The document contains unknown figures, or a record is missing.
    """

    def written(matched: re.Match[str]) -> str:
        begin, name, _, end = matched.groups()
        if name not in figures:
            message = f"figures {name!r} are unknown there; choose from {', '.join(figures)}"
            raise NotFoundError(message)
        return begin + figures[name](read) + end

    return _MARKED.sub(written, text)


def _replayed(read: Read, experiment: str, path: Path) -> None:
    replay_pictures_of(read(f"replay-{experiment}.json"))[experiment](path)


def main() -> None:
    """Rewrite the documents and the pictures of the folder named on the command line."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    read = records_in(root / "benchmarks")
    for name, figures in DOCUMENTS.items():
        path = root / name
        text = with_figures(path.read_text(encoding="utf-8"), figures, read)
        with atomic_write(path) as partial:
            partial.write_text(text, encoding="utf-8")
    for name, draw in PICTURES.items():
        with atomic_write(root / name) as partial:
            draw(read, partial)


if __name__ == "__main__":
    main()
