"""docs/concepts/families.md shows every family, in the mode that the tests see."""

import re
from pathlib import Path

import pytest

from helpers.same_text import PLAIN
from helpers.tiny_models import tiny_model
from lookahead.hf.support.probe import probe
from lookahead.hf.support.reproducibility import reproducible_method_of
from research.families.families import FAMILIES

PAGE = Path(__file__).parents[2] / "docs" / "concepts" / "families.md"


def test_the_table_shows_every_family():
    rows = re.findall(r"^\| (\S+) +\| (tree|chain|plain) +\|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert dict(rows) == {family: "plain" if family in PLAIN else "tree" for family in FAMILIES}


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mixtral", "bloom", "jamba", "granite_swa"])
def test_the_table_says_how_text_is_reproducible(family):
    rows = re.findall(
        r"^\| (\S+) +\| (?:tree|chain|plain) +\| (one shape|plain) +\|",
        PAGE.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert len(rows) == len(FAMILIES)
    exact = probe(tiny_model(family), fixed_width=16)
    assert dict(rows)[family] == reproducible_method_of(exact.verification).value
