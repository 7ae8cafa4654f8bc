"""The public forms of data sets, turned into ours: which form a line has is seen from its fields.

To add one: write what makes of a parsed line one of our form, and give it a line in `FORMATS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Line = dict[str, Any]

_TASK = "Complete this Python function. Reply with the whole function in one code block."


@dataclass(frozen=True)
class RowFormat:
    """A public form of rows.

    Attributes:
        name: what it is called in documents.
        fields: a line that has all of them is in this form.
        convert: makes a line of our form, from a line and its place in the file, counted from 0.
    """

    name: str
    fields: frozenset[str]
    convert: Callable[[Line, int], Line]


def _spec_bench(line: Line, _place: int) -> Line:
    return {**line, "id": line["question_id"]}


def _gsm8k(line: Line, place: int) -> Line:
    return _one_turn(f"gsm8k-{place}", "gsm8k", line["question"], line["answer"])


def _humaneval(line: Line, _place: int) -> Line:
    turn = f"{_TASK}\n\n```python\n{str(line['prompt']).strip()}\n```"
    return _one_turn(line["task_id"], "humaneval", turn, line["canonical_solution"])


def _dolly(line: Line, place: int) -> Line:
    turn = "\n\n".join(filter(None, (line["instruction"], line["context"])))
    return _one_turn(f"dolly-{place}", line["category"], turn, line["response"])


def _one_turn(row_id: str | int, category: str, turn: str, reference: str) -> Line:
    return {"id": row_id, "category": category, "turns": [turn], "reference": reference}


FORMATS = (
    RowFormat("Spec-Bench", frozenset({"question_id", "category", "turns"}), _spec_bench),
    RowFormat("GSM8K", frozenset({"question", "answer"}), _gsm8k),
    RowFormat("HumanEval", frozenset({"task_id", "prompt", "canonical_solution"}), _humaneval),
    RowFormat("Dolly", frozenset({"instruction", "context", "response", "category"}), _dolly),
)


def in_our_form(line: Line, place: int) -> Line:
    """Return a parsed line in our form, `{id, category, turns, reference}`; one of no known form as it is."""
    if "id" in line and "turns" in line:
        return line
    known = next((form for form in FORMATS if form.fields <= line.keys()), None)
    return line if known is None else known.convert(line, place)
