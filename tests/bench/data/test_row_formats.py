"""Public forms of data sets, read as they are, and the folder they are looked for in."""

import json

import pytest

from lookahead.bench.data.datasets import Row, find_data, read_rows
from lookahead.bench.data.row_formats import FORMATS
from lookahead.errors import DataFormatError

PUBLISHED = {
    "Spec-Bench": (
        {"question_id": 81, "category": "writing", "turns": ["Write.", "Again."], "reference": ["r"]},
        Row(row_id=81, category="mt_bench", prompt="Write."),
    ),
    "GSM8K": (
        {"question": "How many?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"},
        Row(row_id="gsm8k-1", category="gsm8k", prompt="How many?", reference="2 + 2 = <<2+2=4>>4\n#### 4"),
    ),
    "HumanEval": (
        {
            "task_id": "HumanEval/0",
            "prompt": "\ndef one():\n",
            "canonical_solution": "    return 1\n",
            "test": "",
        },
        Row(
            row_id="HumanEval/0",
            category="humaneval",
            prompt="Complete this Python function. Reply with the whole function in one code block.\n\n"
            "```python\ndef one():\n```",
            reference="    return 1\n",
        ),
    ),
    "Dolly": (
        {"instruction": "Who?", "context": "He did.", "response": "He.", "category": "closed_qa"},
        Row(row_id="dolly-1", category="closed_qa", prompt="Who?\n\nHe did.", reference="He."),
    ),
}


@pytest.mark.parametrize("name", [form.name for form in FORMATS])
def test_a_published_form_is_read_as_it_is(tmp_path, name):
    line, row = PUBLISHED[name]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(PUBLISHED["GSM8K"][0]) + "\n" + json.dumps(line) + "\n")
    assert read_rows(path)[1] == row


def test_dolly_without_a_context_is_the_instruction_alone(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({**PUBLISHED["Dolly"][0], "context": ""}))
    assert read_rows(path)[0].prompt == "Who?"


def test_our_own_form_stays_what_it_is_whatever_else_a_line_holds(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"id": 1, "category": "qa", "turns": ["t"], "question": "q", "answer": "a"}))
    assert read_rows(path) == [Row(row_id=1, category="qa", prompt="t")]


def test_a_file_is_looked_for_in_the_data_folder_where_it_is_not_as_given(tmp_path, monkeypatch):
    data, here = tmp_path / "data", tmp_path / "here"
    data.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    (data / "rows.jsonl").write_text("")
    given = type(here)("rows.jsonl")
    monkeypatch.delenv("LOOKAHEAD_DATA", raising=False)
    assert find_data(given) == given
    monkeypatch.setenv("LOOKAHEAD_DATA", str(data))
    assert find_data(given) == data / "rows.jsonl"
    assert find_data(type(here)("other.jsonl")) == type(here)("other.jsonl")
    (here / "rows.jsonl").write_text("")
    assert find_data(given) == given


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ({"question": 5, "answer": "a"}, "question"),
        ({"question": "q", "answer": None}, "answer"),
        ({"task_id": "a", "prompt": None, "canonical_solution": ""}, "prompt"),
        ({"instruction": 5, "context": "", "response": "r", "category": "qa"}, "instruction"),
        ({"instruction": "i", "context": None, "response": "r", "category": "qa"}, "context"),
    ],
)
def test_a_field_of_another_type_is_named(tmp_path, line, name):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(line))
    with pytest.raises(DataFormatError, match=f"line 1: '{name}' must be a string"):
        read_rows(path)
