"""`/v1/completions`."""

import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from lookahead.engine.request import Request
from lookahead.server.access import Access
from lookahead.server.answers.chat_requests import prediction_tokens
from lookahead.server.answers.logprobs import completion_logprobs
from lookahead.server.answers.prompts import text_tokens
from lookahead.server.answers.requests import Wanted, requests_of_choices
from lookahead.server.answers.running import Choice, RunningAnswers
from lookahead.server.answers.usage import (
    finish_reason,
    lookahead_body,
    stop_reason,
    usage_body,
)
from lookahead.server.http.errors import ApiError
from lookahead.server.http.streaming import DONE, EventStream, data, unless_disconnected
from lookahead.server.protocol.common import MAX_CHOICES
from lookahead.server.protocol.completions import CompletionBody
from lookahead.server.state import ServerState, access_of, request_id_of, state_of

router = APIRouter()
_DEFAULT_MAX_TOKENS = 16
"""OpenAI's."""


@router.post("/v1/completions")
async def completions(
    body: CompletionBody,
    request: HttpRequest,
    access: Annotated[Access, Depends(access_of)],
) -> Response:
    """Continue texts."""
    state = state_of(request)
    state.check_body(body)

    async def start() -> tuple[_Completion, RunningAnswers]:
        prompts, requests = await state.in_thread(body, _requests, state, body, access)
        running = await state.run(body, requests, endpoint="completions")
        return _Completion(state, body, prompts), running

    answer, running = await unless_disconnected(request, start())
    if body.is_streamed:
        events = answer.events(running)
        return EventStream(events, cancel=running.cancel, request_id=request_id_of(request))
    choices = await unless_disconnected(request, running.choices(), running.cancel)
    return JSONResponse(answer.whole(choices, running))


def _requests(
    state: ServerState, body: CompletionBody, access: Access
) -> tuple[list[list[int]], list[Request]]:
    """Return the tokens of each prompt, and the engine's requests: `n` for each prompt."""
    scope = access.scope_of(body)
    if len(body.prompts) * body.choices > MAX_CHOICES:
        message = f"n times the number of prompts is more than {MAX_CHOICES}; ask for fewer"
        raise ApiError(400, message, param="n")
    prompts = [
        text_tokens(state.model, prompt, adds_special=body.add_special_tokens)
        if isinstance(prompt, str)
        else prompt
        for prompt in body.prompts
    ]
    predicted = prediction_tokens(state, body.prediction)

    def wanted(prompt: list[int]) -> Wanted:
        form = state.grammars.of(body.response_format, body.structured_outputs)
        return Wanted(
            prompt_ids=prompt,
            prompt_param="prompt",
            max_tokens=_max_tokens(body),
            scope=scope,
            logprobs=body.logprobs,
            prompt_logprobs=body.logprobs if body.echo else None,
            processors=[] if form is None else [form],
            prediction_ids=predicted,
        )

    made: list[Request] = []
    for prompt in prompts:
        made += requests_of_choices(
            state.model, body, partial(wanted, prompt), uses_defaults=state.settings.uses_model_defaults
        )
    return prompts, made


def _max_tokens(body: CompletionBody) -> int:
    """Return the most tokens of an answer; 0 of them, to score a prompt, takes one that is left out."""
    if body.max_tokens is None:
        return _DEFAULT_MAX_TOKENS
    if body.max_tokens == 0 and not body.echo:
        raise ApiError(400, "max_tokens is 0; that is only allowed with echo", param="max_tokens")
    return max(1, body.max_tokens)


class _Completion:
    """Writes an answer in OpenAI's shape.

    Args:
        state: The server's.
        body: What was asked.
        prompts: The tokens of each prompt.
    """

    def __init__(self, state: ServerState, body: CompletionBody, prompts: list[list[int]]) -> None:
        self._model, self._body, self._prompts = state.model, body, prompts
        self._scores_only = body.max_tokens == 0
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": state.model.name,
            "system_fingerprint": None,
        }

    def whole(self, choices: list[Choice], running: RunningAnswers) -> dict[str, Any]:
        """Return a whole completion."""
        made = [self._whole_choice(index, choice) for index, choice in enumerate(choices)]
        return {**self._head, "choices": made, "usage": self._usage(running)}

    async def events(self, running: RunningAnswers) -> AsyncIterator[bytes]:
        """Return a completion in chunks."""
        body, options = self._body, self._body.stream_options
        pending = {index: Choice() for index in range(len(self._prompts) * body.choices)}
        offsets = dict.fromkeys(pending, 0)
        is_begun = dict.fromkeys(pending, False)
        async for delta in running.deltas():
            index, choice = delta.choice, pending[delta.choice]
            choice.add(delta)
            if not (choice.text or body.lookahead.sources or body.return_token_ids or delta.finish):
                continue
            extra: dict[str, Any] = {"lookahead": lookahead_body(delta)} if body.lookahead.sources else {}
            if options is not None and options.continuous_usage_stats:
                extra["usage"] = self._usage(running)
            made = self._choice(index, choice, echoes=not is_begun[index], offset=offsets[index])
            offsets[index] += len(made["text"])
            is_begun[index], pending[index] = True, Choice()
            yield data({**self._head, "choices": [made], **extra})
        if options is not None and options.include_usage:
            yield data({**self._head, "choices": [], "usage": self._usage(running)})
        yield DONE

    def _whole_choice(self, index: int, choice: Choice) -> dict[str, Any]:
        return self._choice(index, choice, echoes=True, offset=0)

    def _choice(self, index: int, choice: Choice, *, echoes: bool, offset: int) -> dict[str, Any]:
        body, model = self._body, self._model
        prompt = self._prompts[index // body.choices] if body.echo and echoes else []
        text = model.tokenizer.decode(prompt, skip_special_tokens=body.skip_special_tokens) if prompt else ""
        made: dict[str, Any] = {"index": index, "text": text, "logprobs": None, "finish_reason": None}
        tokens, logprobs = choice.tokens, choice.logprobs
        if self._scores_only:
            tokens, logprobs = [], []
        else:
            made["text"] += choice.text
        if body.logprobs is not None:
            before = choice.prompt_logprobs if prompt else []
            made["logprobs"] = completion_logprobs(
                model.tokenizer, [*before, *logprobs], [*prompt, *tokens], offset
            )
        if choice.finish is not None:
            made["finish_reason"] = "length" if self._scores_only else finish_reason(choice.finish)
            made["stop_reason"] = stop_reason(choice.finish, model.end_tokens)
        if body.return_token_ids:
            made["token_ids"] = list(tokens)
        return made

    def _usage(self, running: RunningAnswers) -> dict[str, Any]:
        """Return the usage of all prompts together."""
        usages, per_prompt = list(running.usages), self._body.choices
        if self._scores_only:  # the token that was left out
            usages = [replace(usage, completion_tokens=0) for usage in usages]
        parts = [
            usage_body(usages[begin : begin + per_prompt]) for begin in range(0, len(usages), per_prompt)
        ]
        return _sum_of(parts)


def _sum_of(usages: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: _sum_of([usage[name] for usage in usages])
        if isinstance(value, dict)
        else sum(usage[name] for usage in usages)
        for name, value in usages[0].items()
    }
