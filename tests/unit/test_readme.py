"""The README's figures are those of the recorded runs."""

from pathlib import Path

import pytest

from lookahead.bench import readme
from lookahead.bench.readme import FIGURES, PICTURE, records_in, written_readme
from lookahead.errors import NotFoundError

ROOT = Path(__file__).parents[2]
READ = records_in(ROOT / "benchmarks")


def test_the_readme_says_what_was_measured():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert written_readme(text, READ) == text, "run: make readme"
    assert all(f"<!-- figures: {name} -->" in text for name in FIGURES)


def test_no_figures_begin_a_line_of_prose():
    """A comment at the beginning of a line would end the paragraph there."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if line.startswith("<!--") and not line.endswith("-->")]


def test_the_picture_shows_the_record(tmp_path, monkeypatch):
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    (tmp_path / PICTURE).parent.mkdir(parents=True)
    (tmp_path / "README.md").write_text("<!-- figures: plain --><!-- end of figures -->", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["readme", str(tmp_path)])
    readme.main()
    assert "-->4.03x<!--" in (tmp_path / "README.md").read_text(encoding="utf-8")
    drawn, kept = ((root / PICTURE).read_text(encoding="utf-8") for root in (tmp_path, ROOT))
    words = [line for line in drawn.splitlines() if line.strip().startswith("<!--")]
    assert [line for line in kept.splitlines() if line.strip().startswith("<!--")] == words, (
        "run: make readme"
    )
    assert any("lookahead: 7." in line for line in words)


def test_a_changed_record_changes_the_readme():
    def slower(name):
        report = READ(name)
        report["speedup"]["lookahead"]["overall"] = 1.01
        return report

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "| **all 72 prompts** | **1.01x** |" in written_readme(text, slower)


def test_figures_that_nobody_makes_are_refused():
    with pytest.raises(NotFoundError, match="'magic' in the README are unknown; choose from spec-bench"):
        written_readme("<!-- figures: magic -->x<!-- end of figures -->", READ)


def test_a_missing_record_is_named(tmp_path):
    with pytest.raises(NotFoundError, match=r"no record .*nothing\.json"):
        records_in(tmp_path)("nothing.json")
