"""Reports as folders."""

from lookahead.bench.report.table_maker import FigureTable
from research.reports import as_markdown


def test_a_table_is_markdown_as_well():
    table = FigureTable("Speed", ("method", "tokens\nper second"), (("plain", "2.0"),))
    assert as_markdown(table) == (
        "**Speed**\n\n| method | tokens per second |\n| --- | ---: |\n| plain | 2.0 |\n"
    )
