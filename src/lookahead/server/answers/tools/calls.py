"""`ToolCallReader`: calls of tools in an answer's text, while it is written."""

import json
import re
from dataclasses import dataclass
from typing import Any

from lookahead.server.answers.tools.formats import CALL_BEGIN, CALL_END

_HEAD = re.compile(
    r'\{\s*"name"\s*:\s*"((?:[^"\\]|\\.)*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)', re.DOTALL
)
"""A call up to its arguments, as models and our grammars write it."""


@dataclass(frozen=True)
class CallDelta:
    """News of a call.

    Attributes:
        index: Which call of the answer.
        name: Its function, in the first news of it; else None.
        arguments: More of its arguments' JSON.
    """

    index: int
    name: str | None
    arguments: str


class ToolCallReader:
    """Splits an answer into text and calls.

    >>> reader = ToolCallReader(is_bare=False)
    >>> reader.push('Let me see. <tool_call>{"name": "f", "arguments": {"a"')
    ('Let me see. ', [CallDelta(index=0, name='f', arguments='{"a"')])
    >>> reader.push(": 1}}</tool_call>")
    ('', [CallDelta(index=0, name=None, arguments=': 1}')])

    Args:
        is_bare: Whether the answer is JSON from its first character, one call or a list of them; else calls
            are within `<tool_call>` tags.
    """

    def __init__(self, *, is_bare: bool) -> None:
        self._is_bare = is_bare
        self._block: _Block | None = _Block() if is_bare else None
        self._held = ""
        self.calls = 0

    def push(self, text: str) -> tuple[str, list[CallDelta]]:
        """Add text of the answer; return text for the user and news of calls."""
        self._held += text
        written, deltas = "", []
        if (
            self._is_bare
            and self.calls == 0
            and self._held.strip()
            and not _may_be_call(self._block, self._held)
        ):
            self._is_bare, self._block = False, None  # it is text after all
        while self._held:
            tag = CALL_BEGIN if self._block is None else CALL_END
            before, found, after = (self._held, "", "") if self._is_bare else self._held.partition(tag)
            kept = 0 if found or self._is_bare else _prefix_at_end(before, tag)
            ready, self._held = before[: len(before) - kept], after if found else before[len(before) - kept :]
            if self._block is None:
                written += ready
            else:
                deltas += self._numbered(self._block.push(ready))
            if not found:
                break
            if self._block is None:
                self._block = _Block()
            else:
                written += self._close(self._block, deltas)
                self._block = None
        return written, deltas

    def end(self) -> tuple[str, list[CallDelta]]:
        """Return what is left: text that looked like the beginning of a tag, or like a call, and was none."""
        written, deltas = self._held if self._block is None else "", []
        if self._block is not None:
            deltas = self._numbered(self._block.push(self._held))
            written = self._close(self._block, deltas)
        self._held, self._block = "", None
        return written, deltas

    def _close(self, block: "_Block", deltas: list[CallDelta]) -> str:
        """Add the calls of a block that were not found while it came; return its text if it has none."""
        if block.has_calls:
            return ""
        calls = _whole_calls(block.text)
        for name, arguments in calls:
            deltas += self._numbered([(name, arguments)])
        if calls or not block.text.strip():
            return ""
        return block.text if self._is_bare else f"{CALL_BEGIN}{block.text}"

    def _numbered(self, news: list[tuple[str | None, str]]) -> list[CallDelta]:
        made = []
        for name, arguments in news:
            self.calls += name is not None
            made.append(CallDelta(self.calls - 1, name, arguments))
        return made


class _Block:
    """The text of one or several calls: their names and arguments as they come."""

    def __init__(self) -> None:
        self.text = ""
        self.has_calls = False
        self._rest = ""  # outside of arguments
        self._depth = 0  # within arguments, else 0
        self._in_string = self._is_escaped = False

    def push(self, text: str) -> list[tuple[str | None, str]]:
        """Return pairs: the name of a call that begins, or None; and more of its arguments."""
        self.text += text
        self._rest += text
        made: list[tuple[str | None, str]] = []
        while self._rest:
            if self._depth > 0:
                length = self._length_of_arguments(self._rest)
                made.append((None, self._rest[:length]))
                self._rest = self._rest[length:]
                continue
            head = _HEAD.search(self._rest)
            if head is None:
                break
            self.has_calls = True
            self._rest = self._rest[head.end() + 1 :]
            self._depth = 1
            made.append((json.loads(f'"{head[1]}"', strict=False), "{"))
        return _joined(made)

    def _length_of_arguments(self, text: str) -> int:
        """Return how much of a text belongs to the arguments, and remember where it ends."""
        for at, character in enumerate(text):
            if self._in_string:
                if self._is_escaped:
                    self._is_escaped = False
                elif character == "\\":
                    self._is_escaped = True
                elif character == '"':
                    self._in_string = False
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return at + 1
        return len(text)


def _joined(news: list[tuple[str | None, str]]) -> list[tuple[str | None, str]]:
    """Return news of which each has the whole text up to the next call."""
    made: list[tuple[str | None, str]] = []
    for name, arguments in news:
        if name is None and made:
            made[-1] = (made[-1][0], made[-1][1] + arguments)
        else:
            made.append((name, arguments))
    return made


def _whole_calls(text: str) -> list[tuple[str, str]]:
    """Return the name and arguments of each call in JSON that is complete; none if it is something else."""
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        return []
    calls = []
    for one in content if isinstance(content, list) else [content]:
        if not isinstance(one, dict) or not isinstance(one.get("name"), str):
            return []
        arguments = one.get("arguments", one.get("parameters", {}))
        calls.append(
            (
                one["name"],
                arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False),
            )
        )
    return calls


def _may_be_call(block: "_Block | None", text: str) -> bool:
    """Return whether bare text may be a call: JSON begins with a brace or a bracket."""
    begin = ("" if block is None else block.text) + text
    return begin.lstrip()[:1] in ("{", "[")


def _prefix_at_end(text: str, tag: str) -> int:
    """Return how many of the last characters of a text may be the beginning of a tag."""
    for length in range(min(len(text), len(tag) - 1), 0, -1):
        if tag.startswith(text[-length:]):
            return length
    return 0
