"""The items of a response, and the events by which they come."""

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from lookahead.engine.events import TokenLogprobs
from lookahead.server.answers.chat_answer import News
from lookahead.server.answers.logprobs import chat_logprobs


class ResponseItems:
    """Builds the items of a response: a message, calls of functions, in the order in which they come.

    Args:
        tokenizer: The model's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._open: dict[str, Any] | None = None
        self.items: list[dict[str, Any]] = []

    def push(self, news: News, logprobs: Sequence[TokenLogprobs]) -> Iterator[dict[str, Any]]:
        """Add news; return events."""
        if news.text and (news.text.strip() or self._is_open("message")):
            if not self._is_open("message"):
                yield from self.close()
                yield from self._open_message()
            yield from self._add_text(news.text, chat_logprobs(self._tokenizer, logprobs))
        for call in news.calls:
            if call.name is not None:
                yield from self.close()
                yield from self._open_call(call.name)
            if self._open is not None and call.arguments:
                self._open["arguments"] += call.arguments
                yield self._of_item("response.function_call_arguments.delta", delta=call.arguments)

    def close(self, status: str = "completed") -> Iterator[dict[str, Any]]:
        """End the item that is open; return events."""
        item, place = self._open, len(self.items) - 1
        if item is None:
            return
        item["status"] = status
        if item["type"] == "message":
            (part,) = item["content"]
            text = {"text": part["text"], "logprobs": part["logprobs"]}
            yield self._of_item("response.output_text.done", content_index=0, **text)
            yield self._of_item("response.content_part.done", content_index=0, part=part)
        else:
            done = {"arguments": item["arguments"], "name": item["name"]}
            yield self._of_item("response.function_call_arguments.done", **done)
        self._open = None
        yield {"type": "response.output_item.done", "output_index": place, "item": item}

    def _is_open(self, kind: str) -> bool:
        return self._open is not None and self._open["type"] == kind

    def _open_item(self, item: dict[str, Any]) -> dict[str, Any]:
        self._open = item
        self.items.append(item)
        shown = dict(item)
        if "content" in item:
            shown["content"] = []
        return {"type": "response.output_item.added", "output_index": len(self.items) - 1, "item": shown}

    def _open_message(self) -> Iterator[dict[str, Any]]:
        part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield self._open_item(
            {
                "id": f"msg_{uuid.uuid4().hex}",
                "type": "message",
                "role": "assistant",
                "status": "in_progress",
                "content": [part],
            }
        )
        shown = {**part, "annotations": [], "logprobs": []}
        yield self._of_item("response.content_part.added", content_index=0, part=shown)

    def _open_call(self, name: str) -> Iterator[dict[str, Any]]:
        yield self._open_item(
            {
                "id": f"fc_{uuid.uuid4().hex}",
                "type": "function_call",
                "call_id": f"call_{uuid.uuid4().hex[:24]}",
                "name": name,
                "arguments": "",
                "status": "in_progress",
            }
        )

    def _add_text(self, text: str, logprobs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        assert self._open is not None  # noqa: S101  # the message was opened before
        (part,) = self._open["content"]
        part["text"] += text
        part["logprobs"] += logprobs
        yield self._of_item("response.output_text.delta", content_index=0, delta=text, logprobs=logprobs)

    def _of_item(self, kind: str, **fields: Any) -> dict[str, Any]:
        assert self._open is not None  # noqa: S101  # events are of the open item
        return {"type": kind, "item_id": self._open["id"], "output_index": len(self.items) - 1, **fields}
