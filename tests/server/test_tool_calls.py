"""`ToolCallReader`: text and calls, however the answer is cut into pieces."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookahead.server.answers.tools.calls import ToolCallReader

NAMES = st.sampled_from(["f", "get_weather", "a.b-c"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(st.sampled_from('ab{}[]",\\:é<>/ '), max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab{", max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(st.text(st.sampled_from('ab{}"'), max_size=4), VALUES, max_size=3)
CALLS = st.lists(st.tuples(NAMES, ARGUMENTS), min_size=1, max_size=3)
TEXT = st.text(st.sampled_from("ab <>tol_c/"), max_size=12).filter(lambda text: "<tool_call>" not in text)
CUTS = st.lists(st.integers(1, 9), max_size=200)


def read(text, cuts, *, is_bare):
    """The text and the calls of an answer that comes in pieces."""
    reader, written, calls, at = ToolCallReader(is_bare=is_bare), "", [], 0
    news = []
    for cut in cuts:
        news.append(reader.push(text[at : at + cut]))
        at += cut
    news += [reader.push(text[at:]), reader.end()]
    for piece, deltas in news:
        written += piece
        for delta in deltas:
            if delta.name is not None:
                assert delta.index == len(calls)
                calls.append([delta.name, ""])
            calls[delta.index][1] += delta.arguments
    return written, calls


def as_json(calls, key="arguments"):
    return [json.dumps({"name": name, key: arguments}) for name, arguments in calls]


def parsed(calls):
    return [(name, json.loads(arguments)) for name, arguments in calls]


@given(TEXT, CALLS, TEXT, CUTS)
@settings(max_examples=300, deadline=None)
def test_tagged_calls_come_out_of_any_pieces(before, calls, after, cuts):
    tagged = "".join(f"<tool_call>\n{call}\n</tool_call>" for call in as_json(calls))
    written, found = read(before + tagged + after, cuts, is_bare=False)
    assert (written, parsed(found)) == (before + after, calls)


@given(CALLS, CUTS, st.sampled_from(["arguments", "parameters"]), st.booleans())
@settings(max_examples=200, deadline=None)
def test_bare_calls_come_out_of_any_pieces(calls, cuts, key, is_list):
    text = "[" + ", ".join(as_json(calls, key)) + "]" if is_list else as_json(calls[:1], key)[0]
    written, found = read(text, cuts, is_bare=True)
    assert (written, parsed(found)) == ("", calls if is_list else calls[:1])


@given(TEXT.filter(lambda text: text.strip()), CUTS)
def test_a_bare_answer_that_is_no_call_is_text(text, cuts):
    assert read(text, cuts, is_bare=True) == (text, [])


@pytest.mark.parametrize(
    ("text", "written", "calls"),
    [
        ('<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', "", [["f", '{"a": 1}']]),
        ('<tool_call>{"id": 3, "name": "f", "arguments": {}}</tool_call>', "", [["f", "{}"]]),
        ('<tool_call>{"name": "f", "arguments": "{}"}</tool_call>', "", [["f", "{}"]]),
        ('<tool_call>{"name": "f"}</tool_call>', "", [["f", "{}"]]),
        ('<tool_call>[{"name": "f", "arguments": {}}]</tool_call>', "", [["f", "{}"]]),
        ("<tool_call>nothing of the kind</tool_call>", "<tool_call>nothing of the kind", []),
        ("a <tool_cal", "a <tool_cal", []),
    ],
)
def test_other_orders_other_fields_and_what_is_no_call(text, written, calls):
    for cuts in ([], [1] * len(text)):
        assert read(text, cuts, is_bare=False) == (written, calls)


def test_arguments_come_while_they_are_written():
    reader = ToolCallReader(is_bare=False)
    text, (delta,) = reader.push('Let me see. <tool_call>{"name": "f", "arguments": {"a"')
    assert (text, delta.name, delta.arguments) == ("Let me see. ", "f", '{"a"')
    _, (delta,) = reader.push(": 1}}</tool_call>")
    assert (delta.index, delta.name, delta.arguments) == (0, None, ": 1}")
