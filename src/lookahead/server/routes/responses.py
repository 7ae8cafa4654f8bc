"""`/v1/responses`, without stored state."""

import time
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError

from lookahead.engine.events import FinishReason, TokenLogprobs
from lookahead.server.access import Access
from lookahead.server.answers.chat_answer import ChatForm, ChatText
from lookahead.server.answers.chat_requests import chat_requests
from lookahead.server.answers.response_events import ResponseItems
from lookahead.server.answers.running import RunningAnswers
from lookahead.server.http.errors import told_error
from lookahead.server.http.streaming import EventStream, data, unless_disconnected
from lookahead.server.http.validation import body_error
from lookahead.server.protocol.chat import ChatBody
from lookahead.server.protocol.common import AnswerBody
from lookahead.server.protocol.responses import ResponsesBody
from lookahead.server.state import ServerState, access_of, request_id_of, state_of

router = APIRouter()


@router.post("/v1/responses")
async def responses(
    body: ResponsesBody,
    request: HttpRequest,
    access: Annotated[Access, Depends(access_of)],
) -> Response:
    """Answer a conversation."""
    state = state_of(request)
    state.check_body(body)
    chat = _as_chat_body(body)
    answer = _Response(state, body, chat)

    async def start() -> RunningAnswers:
        requests = await state.in_thread(chat, chat_requests, state, chat, access)
        return await state.run(chat, requests, endpoint="responses", skips_special=answer.skips_special)

    running = await unless_disconnected(request, start())
    if body.is_streamed:
        request_id = request_id_of(request)
        events = answer.streamed(running, request_id)
        return EventStream(events, cancel=running.cancel, request_id=request_id, ends=b"")
    return JSONResponse(await unless_disconnected(request, answer.whole(running), running.cancel))


def _as_chat_body(body: ResponsesBody) -> ChatBody:
    """Return the chat completion that a response stands for.

    Raises:
        ApiError: Its tools do not fit together.
    """
    shared = {name: getattr(body, name) for name in AnswerBody.model_fields}
    try:
        return ChatBody(**shared, **body.as_chat())
    except ValidationError as error:
        raise body_error(error.errors()) from None


class _Response:
    """Writes an answer in OpenAI's shape.

    Args:
        state: The server's.
        body: What was asked.
        chat: The same as a chat completion.
    """

    def __init__(self, state: ServerState, body: ResponsesBody, chat: ChatBody) -> None:
        self._body = body
        self._wants_logprobs = bool(chat.logprobs)
        form = ChatForm.of(chat, state.model)
        self.skips_special = body.skip_special_tokens and not form.needs_special_tokens
        self._text = ChatText(form)
        self._items = ResponseItems(state.model.tokenizer)
        self._head = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": time.time(),
            "model": state.model.name,
            "error": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "tool_choice": chat.tool_choice if isinstance(chat.tool_choice, str) else _named(body),
            "tools": [
                {"strict": None, "parameters": None} | tool.model_dump(exclude_none=True)
                for tool in body.tools or []
            ],
            "text": {"format": _format_of(body)},
            "truncation": "disabled",
            "store": False,
        }

    async def whole(self, running: RunningAnswers) -> dict[str, Any]:
        """Return a whole response."""
        last: dict[str, Any] = {}
        async for event in self._events(running):
            last = event
        found: dict[str, Any] = last["response"]
        return found

    async def streamed(self, running: RunningAnswers, request_id: str) -> AsyncIterator[bytes]:
        """Return a response as events; a fault is the last of them."""
        number = 0
        try:
            async for event in self._events(running):
                yield data({**event, "sequence_number": number}, event["type"])
                number += 1
        except Exception as error:  # noqa: BLE001  headers are sent: the error is an event
            told = told_error(error, request_id)
            fault = {"type": "error", "code": told.code, "message": told.message, "param": told.param}
            yield data({**fault, "sequence_number": number}, "error")

    async def _events(self, running: RunningAnswers) -> AsyncIterator[dict[str, Any]]:
        yield {"type": "response.created", "response": self._response("in_progress")}
        yield {"type": "response.in_progress", "response": self._response("in_progress")}
        logprobs: list[TokenLogprobs] = []
        reason = None
        async for delta in running.deltas():
            logprobs += delta.logprobs if self._wants_logprobs else ()
            news = self._text.push(delta.text)
            if delta.finish is not None:
                news, reason = news.then(self._text.end()), delta.finish.reason
            if news.text or news.calls:
                for event in self._items.push(news, logprobs):
                    yield event
                logprobs = []
        status = "incomplete" if reason is FinishReason.LENGTH else "completed"
        for event in self._items.close(status):
            yield event
        yield {"type": f"response.{status}", "response": self._response(status, running)}

    def _response(self, status: str, running: RunningAnswers | None = None) -> dict[str, Any]:
        is_cut = status == "incomplete"
        return {
            **self._head,
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": list(self._items.items),
            "usage": None if running is None else _usage(running),
        }


def _usage(running: RunningAnswers) -> dict[str, Any]:
    (usage,) = running.usages
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _named(body: ResponsesBody) -> Any:
    choice = body.tool_choice
    return "auto" if choice is None or isinstance(choice, str) else choice.model_dump()


def _format_of(body: ResponsesBody) -> dict[str, Any]:
    form = body.text.format
    if form.type != "json_schema":
        return {"type": form.type}
    return form.model_dump(by_alias=True, exclude_none=True)
