"""docs/concepts/families.md shows every family, in the mode that the tests see."""

import re
from pathlib import Path

from lookahead.hf.families import FAMILIES
from parity.test_families import PLAIN

PAGE = Path(__file__).parents[2] / "docs" / "concepts" / "families.md"


def test_the_table_shows_every_family():
    rows = re.findall(r"^\| (\S+) +\| (tree|chain|plain) +\|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert dict(rows) == {family: "plain" if family in PLAIN else "tree" for family in FAMILIES}
