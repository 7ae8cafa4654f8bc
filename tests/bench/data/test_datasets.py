"""Reading benchmark rows and sharing a limit out."""

import gzip
import json
from pathlib import Path

import pytest

from lookahead.bench.data.datasets import MT_BENCH, MT_BENCH_CATEGORIES, Row, limit_rows, read_rows
from lookahead.errors import ConfigError, DataFormatError, NotFoundError


def record(**changes):
    return {"id": 1, "category": "qa", "turns": ["first", "second"], **changes}


def write(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def rows_of(**sizes):
    return [
        Row(row_id=f"{category}-{index}", category=category, prompt="p")
        for category, size in sizes.items()
        for index in range(size)
    ]


def test_reads_the_first_turn_and_passes_over_empty_lines(tmp_path):
    path = write(
        tmp_path / "rows.jsonl", record(reference=["r"]), "", record(id="b", category="rag", turns=["only"])
    )
    assert read_rows(path) == [
        Row(row_id=1, category="qa", prompt="first"),
        Row(row_id="b", category="rag", prompt="only"),
    ]


def test_reads_gzip(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(record()).encode()))
    assert [row.prompt for row in read_rows(path)] == ["first"]


@pytest.mark.parametrize("category", sorted(MT_BENCH_CATEGORIES))
def test_the_parts_of_mt_bench_are_one_category(tmp_path, category):
    assert read_rows(write(tmp_path / "rows.jsonl", record(category=category)))[0].category == MT_BENCH


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{not json", "not JSON"),
        ("[1, 2]", "a JSON object is wanted"),
        (record(id=None), "'id'"),
        (record(id=True), "'id'"),
        (record(category=""), "'category'"),
        (record(category=3), "'category'"),
        (record(turns=[]), "'turns'"),
        (record(turns="text"), "'turns'"),
        (record(turns=[1]), "'turns'"),
        (record(turns=["  "]), "'turns'"),
        ({"id": 1}, "'category'"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, fault):
    path = write(tmp_path / "rows.jsonl", record(), line)
    with pytest.raises(DataFormatError) as caught:
        read_rows(path)
    assert f"{path}, line 2: " in str(caught.value)
    assert fault in str(caught.value)
    assert '"turns"' in str(caught.value)  # what is expected


def test_a_line_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(record()).encode() + b'\n{"id": "\xff"}\n')
    with pytest.raises(DataFormatError, match="line 2: not JSON"):
        read_rows(path)


CUT_SHORT = gzip.compress(b'{"id": 1}\n' * 9, mtime=0)[:-9]  # the same in every process that collects tests


@pytest.mark.parametrize("content", [b"not gzip at all", CUT_SHORT], ids=["no gzip", "cut short"])
def test_a_broken_gzip_file_is_refused(tmp_path, content):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(DataFormatError, match=r"rows\.jsonl\.gz"):
        read_rows(path)


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(DataFormatError, match="has no rows"):
        read_rows(write(tmp_path / "rows.jsonl", ""))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(NotFoundError, match=r"nowhere\.jsonl"):
        read_rows(tmp_path / "nowhere.jsonl")
    with pytest.raises(NotFoundError):
        read_rows(tmp_path)


def test_a_limit_takes_an_equal_share_of_each_category():
    chosen = limit_rows(rows_of(a=40, b=40, c=10), 12)
    assert [row.category for row in chosen] == ["a"] * 4 + ["b"] * 4 + ["c"] * 4


def test_what_a_small_category_lacks_goes_to_the_others():
    chosen = [row.category for row in limit_rows(rows_of(a=40, b=2, c=40), 12)]
    assert {category: chosen.count(category) for category in "abc"} == {"a": 5, "b": 2, "c": 5}


def test_a_limit_that_does_not_divide_is_still_met_exactly():
    assert len(limit_rows(rows_of(a=40, b=40, c=40), 10)) == 10


def test_the_choice_covers_a_category_from_end_to_end_in_the_order_of_the_file():
    rows = rows_of(a=40)
    assert [row.row_id for row in limit_rows(rows, 8)] == [f"a-{index}" for index in range(0, 40, 5)]
    assert limit_rows(rows, 8) == limit_rows(rows, 8)


@pytest.mark.parametrize("limit", [None, 5, 500])
def test_a_limit_beyond_the_rows_takes_them_all(limit):
    rows = rows_of(a=2, b=3)
    assert limit_rows(rows, limit) == rows


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit):
    with pytest.raises(ConfigError, match=f"limit={limit}"):
        limit_rows(rows_of(a=2), limit)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"[" * 100_000, "nested too deep"),
        (b'{"id": 1, "id": 2, "category": "qa", "turns": ["a"]}', "gives 'id' twice"),
        (rb'{"id": 1, "category": "qa", "turns": ["\ud800"]}', r"half of a surrogate pair, '\\ud800'"),
        (rb'{"id": 1, "category": "\uDFFF", "turns": ["a"]}', "half of a surrogate pair"),
        (b'{"id": NaN, "category": "qa", "turns": ["a"]}', "'id' must be"),
        (b'{"id": ' + b"9" * 5000 + b', "category": "qa", "turns": ["a"]}', "not JSON"),
        (b"\0", "not JSON"),
    ],
)
def test_a_hostile_line_is_named(tmp_path, line, fault):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": 0, "category": "qa", "turns": ["a"]}\n' + line)
    with pytest.raises(DataFormatError, match=f"line 2: .*{fault}"):
        read_rows(path)


def test_pairs_of_surrogates_byte_order_marks_and_carriage_returns_are_text(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"id": 0, "category": "qa", "turns": ["\\ud83d\\ude00 \\\\ud800"]}\r\n\r\n'
    )
    assert read_rows(path)[0].prompt == "\U0001f600 \\ud800"


def test_a_file_that_cannot_be_opened_is_refused(tmp_path, monkeypatch):
    def refuses(*_arguments):
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "rows.jsonl"
    path.touch()
    monkeypatch.setattr(Path, "open", refuses)
    with pytest.raises(NotFoundError, match=r"rows.jsonl cannot be read \(Permission denied\)"):
        read_rows(path)
