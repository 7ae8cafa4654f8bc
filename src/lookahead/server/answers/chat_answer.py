"""The form of a chat's answer: text, or calls of tools."""

import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lookahead.server.answers.running import Delta
from lookahead.server.answers.tools.calls import CallDelta, ToolCallReader
from lookahead.server.answers.tools.formats import CALL_BEGIN, ToolFormat, tool_format
from lookahead.server.answers.usage import finish_reason
from lookahead.server.protocol.chat import ChatBody, NamedTool
from lookahead.server.served_model import ServedModel


class FormKind(StrEnum):
    """What an answer may be."""

    TEXT = "text"
    NAMED = "named"
    """The arguments of one tool, by grammar."""
    CALLS = "calls"
    """One call or a list of calls, by grammar."""
    AUTO = "auto"
    """Text, calls or both, as the model chooses."""


@dataclass(frozen=True)
class ChatForm:
    """The form of an answer.

    Attributes:
        kind: What it may be.
        name: The tool that is called, if there is only one.
        is_bare: Whether calls have no tags around them.
        is_single: Whether only the first call counts.
        needs_special_tokens: Whether special tokens have text: some tokenizers have the tags as such.
    """

    kind: FormKind = FormKind.TEXT
    name: str = ""
    is_bare: bool = False
    is_single: bool = False
    needs_special_tokens: bool = False

    @classmethod
    def of(cls, body: ChatBody, model: ServedModel) -> "ChatForm":
        """Return the form that a body asks for."""
        if not body.tools or body.tool_choice == "none":
            return cls()
        is_single = body.parallel_tool_calls is False
        if isinstance(body.tool_choice, NamedTool):
            return cls(FormKind.NAMED, body.tool_choice.function.name, is_bare=True, is_single=True)
        if body.tool_choice == "required":
            return cls(FormKind.CALLS, is_bare=True, is_single=is_single)
        is_bare = tool_format(model.tokenizer) is ToolFormat.JSON
        needs_special = CALL_BEGIN in model.tokenizer.all_special_tokens
        return cls(FormKind.AUTO, is_bare=is_bare, is_single=is_single, needs_special_tokens=needs_special)


@dataclass(frozen=True)
class News:
    """More of an answer.

    Attributes:
        text: More of its text.
        calls: News of its calls.
    """

    text: str = ""
    calls: tuple[CallDelta, ...] = ()

    def then(self, later: "News") -> "News":
        """Return these news followed by others."""
        return News(self.text + later.text, self.calls + later.calls)

    @property
    def delta(self) -> dict[str, Any]:
        """The `delta` of a chunk; empty if nothing is new."""
        made: dict[str, Any] = {"content": self.text} if self.text else {}
        if self.calls:
            made["tool_calls"] = [
                {
                    "index": call.index,
                    **({} if call.name is None else {"id": _call_id(), "type": "function"}),
                    "function": {
                        **({} if call.name is None else {"name": call.name}),
                        "arguments": call.arguments,
                    },
                }
                for call in self.calls
            ]
        return made

    @property
    def message(self) -> dict[str, Any]:
        """The content and calls of a whole message."""
        calls: list[dict[str, Any]] = []
        for call in self.calls:
            if call.name is not None:
                function = {"name": call.name, "arguments": ""}
                calls.append({"id": _call_id(), "type": "function", "function": function})
            calls[-1]["function"]["arguments"] += call.arguments
        if not calls:
            return {"content": self.text}
        return {"content": self.text.strip() or None, "tool_calls": calls}


class ChatText:
    """Reads the text of an answer in its form.

    Args:
        form: The form.
    """

    def __init__(self, form: ChatForm) -> None:
        self._form = form
        self._reader = None
        if form.kind in (FormKind.CALLS, FormKind.AUTO):
            self._reader = ToolCallReader(is_bare=form.is_bare)
        self._is_named = False

    def push(self, text: str) -> News:
        """Add text; return what is new."""
        if self._form.kind is FormKind.NAMED:
            if not text:
                return News()
            name, self._is_named = None if self._is_named else self._form.name, True
            return News(calls=(CallDelta(0, name, text),))
        if self._reader is None:
            return News(text)
        return self._kept(*self._reader.push(text))

    def end(self) -> News:
        """Return what is left at the end."""
        return News() if self._reader is None else self._kept(*self._reader.end())

    def finish_reason(self, delta: Delta) -> str | None:
        """Return OpenAI's word for how the answer ended; None while it goes on."""
        if delta.finish is None:
            return None
        reason = finish_reason(delta.finish)
        has_calls = self._reader is not None and self._reader.calls > 0
        return "tool_calls" if reason == "stop" and has_calls else reason

    def _kept(self, text: str, calls: list[CallDelta]) -> News:
        kept = [call for call in calls if call.index == 0 or not self._form.is_single]
        return News(text, tuple(kept))


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"
