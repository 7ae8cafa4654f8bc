"""Published formats of data sets, converted to ours. A line's fields identify its format.

To add one: write a function that converts a parsed line, and add a line to `FORMATS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Line = dict[str, Any]

_TASK = "Complete this Python function. Reply with the whole function in one code block."


@dataclass(frozen=True)
class RowFormat:
    """A published format of rows.

    Attributes:
        name: Its name in documents.
        fields: Fields that all lines in this format have.
        texts: Those of them that must be strings.
        convert: Returns a line in our format, from a line and its index in the file.
    """

    name: str
    fields: frozenset[str]
    texts: tuple[str, ...]
    convert: Callable[[Line, int], Line]


def _spec_bench(line: Line, _index: int) -> Line:
    return {**line, "id": line["question_id"]}


def _gsm8k(line: Line, index: int) -> Line:
    return _one_turn(f"gsm8k-{index}", "gsm8k", line["question"], line["answer"])


def _humaneval(line: Line, _index: int) -> Line:
    turn = f"{_TASK}\n\n```python\n{line['prompt'].strip()}\n```"
    return _one_turn(line["task_id"], "humaneval", turn, line["canonical_solution"])


def _dolly(line: Line, index: int) -> Line:
    turn = "\n\n".join(filter(None, (line["instruction"], line["context"])))
    return _one_turn(f"dolly-{index}", line["category"], turn, line["response"])


def _one_turn(row_id: str | int, category: str, turn: str, reference: str) -> Line:
    return {"id": row_id, "category": category, "turns": [turn], "reference": reference}


_DOLLY_TEXTS = ("instruction", "context", "response")
FORMATS = (
    RowFormat("Spec-Bench", frozenset({"question_id", "category", "turns"}), (), _spec_bench),
    RowFormat("GSM8K", frozenset({"question", "answer"}), ("question", "answer"), _gsm8k),
    RowFormat(
        "HumanEval",
        frozenset({"task_id", "prompt", "canonical_solution"}),
        ("prompt", "canonical_solution"),
        _humaneval,
    ),
    RowFormat("Dolly", frozenset({*_DOLLY_TEXTS, "category"}), _DOLLY_TEXTS, _dolly),
)


def in_our_form(line: Line, index: int) -> Line | str:
    """Return a line in our format, `{id, category, turns, reference}`; one in an unknown format unchanged.

    Return a string that says what is wrong if a field of a known format has another type.
    """
    if "id" in line and "turns" in line:
        return line
    known = next((form for form in FORMATS if form.fields <= line.keys()), None)
    if known is None:
        return line
    for name in known.texts:
        if not isinstance(line[name], str):
            return f"{name!r} must be a string, not {line[name]!r:.40}"
    return known.convert(line, index)
