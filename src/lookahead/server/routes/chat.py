"""`/v1/chat/completions`."""

import time
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from lookahead.server.access import Access
from lookahead.server.answers.chat_answer import ChatForm, ChatText
from lookahead.server.answers.chat_requests import chat_requests
from lookahead.server.answers.logprobs import chat_logprobs
from lookahead.server.answers.running import Choice, Delta, RunningAnswers
from lookahead.server.answers.usage import lookahead_body, stop_reason, usage_body
from lookahead.server.http.streaming import DONE, EventStream, data, unless_disconnected
from lookahead.server.protocol.chat import ChatBody
from lookahead.server.state import ServerState, access_of, request_id_of, state_of

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat_completions(
    body: ChatBody,
    request: HttpRequest,
    access: Annotated[Access, Depends(access_of)],
) -> Response:
    """Answer the messages of a chat."""
    state = state_of(request)
    state.check_body(body)
    answer = _ChatCompletion(state, body)

    async def start() -> RunningAnswers:
        requests = await state.in_thread(body, chat_requests, state, body, access)
        return await state.run(body, requests, endpoint="chat", skips_special=answer.skips_special)

    running = await unless_disconnected(request, start())
    if body.is_streamed:
        events = answer.events(running)
        return EventStream(events, cancel=running.cancel, request_id=request_id_of(request))
    choices = await unless_disconnected(request, running.choices(), running.cancel)
    return JSONResponse(answer.whole(choices, running))


class _ChatCompletion:
    """Writes an answer in OpenAI's shape.

    Args:
        state: The server's.
        body: What was asked.
    """

    def __init__(self, state: ServerState, body: ChatBody) -> None:
        self._model, self._body = state.model, body
        self._form = ChatForm.of(body, state.model)
        self.skips_special = body.skip_special_tokens and not self._form.needs_special_tokens
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": state.model.name,
            "system_fingerprint": None,
        }

    def whole(self, choices: list[Choice], running: RunningAnswers) -> dict[str, Any]:
        """Return a whole completion."""
        usage = usage_body(running.usages)
        made = [self._whole_choice(index, choice) for index, choice in enumerate(choices)]
        return {**self._head, "object": "chat.completion", "choices": made, "usage": usage}

    async def events(self, running: RunningAnswers) -> AsyncIterator[bytes]:
        """Return a completion in chunks."""
        body, texts = self._body, [ChatText(self._form) for _ in range(self._body.choices)]
        options = body.stream_options
        pending: dict[int, list[Any]] = {index: [] for index in range(body.choices)}
        for index in range(body.choices):
            yield self._chunk(index, {"role": "assistant", "content": ""})
        async for delta in running.deltas():
            index, text = delta.choice, texts[delta.choice]
            pending[index] += delta.logprobs
            news = text.push(delta.text)
            if delta.finish is not None:
                news = news.then(text.end())
            if not (news.delta or body.lookahead.sources or body.return_token_ids or delta.finish):
                continue
            extra: dict[str, Any] = {}
            if body.lookahead.sources:
                extra["lookahead"] = lookahead_body(delta)
            if options is not None and options.continuous_usage_stats:
                extra["usage"] = usage_body(running.usages)
            yield self._chunk(
                index, news.delta, delta, pending[index], reason=text.finish_reason(delta), **extra
            )
            pending[index] = []
        if options is not None and options.include_usage:
            usage = usage_body(running.usages)
            yield data({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        yield DONE

    def _chunk(
        self,
        index: int,
        content: dict[str, Any],
        delta: Delta | None = None,
        logprobs: list[Any] | None = None,
        *,
        reason: str | None = None,
        **extra: Any,
    ) -> bytes:
        choice: dict[str, Any] = {"index": index, "delta": content, "logprobs": None, "finish_reason": reason}
        if logprobs and self._body.logprobs:
            choice["logprobs"] = {"content": chat_logprobs(self._model.tokenizer, logprobs), "refusal": None}
        if delta is not None and delta.finish is not None:
            choice["stop_reason"] = stop_reason(delta.finish, self._model.end_tokens)
        if delta is not None and self._body.return_token_ids:
            choice["token_ids"] = list(delta.tokens)
        return data({**self._head, "object": "chat.completion.chunk", "choices": [choice], **extra})

    def _whole_choice(self, index: int, choice: Choice) -> dict[str, Any]:
        assert choice.finish is not None  # noqa: S101  # whoever waited for all choices has them
        text = ChatText(self._form)
        news = text.push(choice.text).then(text.end())
        made: dict[str, Any] = {
            "index": index,
            "message": {"role": "assistant", "content": None, "refusal": None} | news.message,
            "logprobs": None,
            "finish_reason": text.finish_reason(Delta(index, finish=choice.finish)),
            "stop_reason": stop_reason(choice.finish, self._model.end_tokens),
        }
        if self._body.logprobs:
            content = chat_logprobs(self._model.tokenizer, choice.logprobs)
            made["logprobs"] = {"content": content, "refusal": None}
        if self._body.return_token_ids:
            made["token_ids"] = choice.tokens
        return made
