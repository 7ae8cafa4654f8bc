"""The figures in README and docs/findings.md are those of the recorded runs."""

from pathlib import Path

import pytest

from lookahead.errors import NotFoundError
from research.figures import documents, findings, readme
from research.figures.documents import DOCUMENTS, PICTURES, with_figures
from research.figures.records import records_in

ROOT = Path(__file__).parents[2]
READ = records_in(ROOT / "benchmarks")


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def words_in(picture):
    """What is written in it: matplotlib leaves it in comments."""
    lines = picture.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip().startswith("<!--")]


@pytest.mark.parametrize("name", DOCUMENTS, ids=str)
def test_a_document_says_what_was_measured(name):
    text, figures = text_of(name), DOCUMENTS[name]
    assert with_figures(text, figures, READ) == text, "run: make figures"
    assert all(f"<!-- figures: {figure} -->" in text for figure in figures)


@pytest.mark.parametrize("name", DOCUMENTS, ids=str)
def test_no_figures_begin_a_line_of_prose(name):
    """A comment at the beginning of a line would end the paragraph there."""
    lines = text_of(name).splitlines()
    assert not [line for line in lines if line.startswith("<!--") and not line.endswith("-->")]


def test_documents_and_pictures_are_written(tmp_path, monkeypatch):
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    (tmp_path / "docs/images").mkdir(parents=True)
    (tmp_path / "README.md").write_text("<!-- figures: plain --><!-- end of figures -->", encoding="utf-8")
    (tmp_path / "docs/findings.md").write_text(
        "<!-- figures: by-set --><!-- end of figures -->", encoding="utf-8"
    )
    monkeypatch.setattr("sys.argv", ["documents", str(tmp_path)])
    documents.main()
    assert "-->4.03x<!--" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| Spec-Bench, 72 |" in (tmp_path / "docs/findings.md").read_text(encoding="utf-8")
    for name in PICTURES:
        drawn, kept = (words_in(root / name) for root in (tmp_path, ROOT))
        assert drawn == kept, "run: make figures"
    assert any("lookahead: 7." in line for line in words_in(tmp_path / "docs/images/speedup.svg"))


def test_a_changed_record_changes_the_documents():
    def slower(name):
        report = READ(name)
        if name == readme.SPEC_BENCH:
            report["speedup"]["lookahead"]["overall"] = 1.01
        return report

    assert "| **all 72 prompts** | **1.01x** |" in with_figures(text_of("README.md"), readme.FIGURES, slower)
    text = with_figures(text_of("docs/findings.md"), findings.FIGURES, slower)
    assert "| Spec-Bench, 72 | 1.01x |" in text


def test_figures_that_nobody_makes_are_refused():
    with pytest.raises(NotFoundError, match="'magic' are unknown there; choose from spec-bench"):
        with_figures("<!-- figures: magic -->x<!-- end of figures -->", readme.FIGURES, READ)


def test_a_missing_record_is_named(tmp_path):
    with pytest.raises(NotFoundError, match=r"no record .*nothing\.json"):
        records_in(tmp_path)("nothing.json")
