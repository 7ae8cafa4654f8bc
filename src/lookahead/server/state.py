"""`ServerState`: what the routes share."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any, TypeVar

from fastapi import Request as HttpRequest

from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.drafting.memory.memory_file import MemoryFile
from lookahead.engine.protocol import Engine
from lookahead.engine.request import Request
from lookahead.server.access import Access
from lookahead.server.answers.grammars import Grammars
from lookahead.server.answers.running import RunningAnswers, submit_all
from lookahead.server.answers.text import TextStream
from lookahead.server.http.errors import ApiError
from lookahead.server.operation.metrics import Metrics, RequestObserver
from lookahead.server.protocol.common import AnswerBody, ManyAnswersBody
from lookahead.server.served_model import ServedModel
from lookahead.server.settings import ServerSettings

_log = logging.getLogger("lookahead.server")
_MAX_NOTED_FIELDS = 1000
_GRAMMAR_THREADS = 2

Made = TypeVar("Made")


def _grammar_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_GRAMMAR_THREADS, thread_name_prefix="lookahead-grammars")


@dataclass
class ServerState:
    """What the routes share.

    Attributes:
        engine: Answers requests.
        model: What is known of the model.
        memory: The draft memory.
        settings: The server's settings.
        metrics: Counts what happens.
        grammars: Compiles grammars.
        memory_file: Saves the memory.
        is_draining: Whether new requests are refused.
        noted_fields: Unknown fields that the log has mentioned.
        grammar_threads: Where requests with grammars are prepared.
    """

    engine: Engine
    model: ServedModel
    memory: DraftMemory
    settings: ServerSettings
    metrics: Metrics
    grammars: Grammars
    memory_file: MemoryFile
    is_draining: bool = False
    noted_fields: set[str] = field(default_factory=set)
    grammar_threads: ThreadPoolExecutor = field(default_factory=_grammar_threads)
    _lock: Lock = field(default_factory=Lock)

    async def in_thread(self, body: ManyAnswersBody, work: Callable[..., Made], *arguments: Any) -> Made:
        """Prepare requests in a thread. Those with a grammar have threads of their own.

        Compiling a grammar can take long: without that, a few clients could keep all others waiting.
        """
        wants_grammar = body.response_format is not None or body.structured_outputs is not None
        is_forced = getattr(body, "tool_choice", None) not in (None, "none", "auto")
        threads = self.grammar_threads if wants_grammar or is_forced else None
        return await asyncio.get_running_loop().run_in_executor(threads, partial(work, *arguments))

    def check_body(self, body: AnswerBody) -> None:
        """Refuse known fields that are not served, and other models; log unknown fields, each once.

        Raises:
            ApiError: A field is not served, or the model is another one.
        """
        unknown = body.unknown_fields()
        with self._lock:
            new = [name for name in unknown if name not in self.noted_fields]
            if len(self.noted_fields) < _MAX_NOTED_FIELDS:
                self.noted_fields.update(new)
        if new:
            _log.info("unknown fields are ignored: %s", ", ".join(repr(name[:80]) for name in new))
        self.check_model(body.model)

    def check_model(self, name: str | None) -> None:
        """Refuse another model than the one that is served.

        Raises:
            ApiError: It is another one.
        """
        if name is not None and name != self.model.name:
            message = f"the model {name!r:.80} does not exist; this server has {self.model.name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")

    async def run(
        self,
        body: AnswerBody,
        requests: Sequence[Request],
        *,
        endpoint: str,
        skips_special: bool | None = None,
    ) -> RunningAnswers:
        """Submit the requests of a body.

        Raises:
            LookaheadError: The engine does not take one of them.
        """
        observer = RequestObserver(self.metrics)
        try:
            streams = await submit_all(self.engine, requests)
        except BaseException:
            self.metrics.count_refusal(endpoint)
            raise
        skips = body.skip_special_tokens if skips_special is None else skips_special
        texts = [
            TextStream(
                self.model.tokenizer,
                stop=body.stop_strings,
                keeps_stop=body.include_stop_str_in_output,
                skips_special=skips,
            )
            for _ in streams
        ]
        return RunningAnswers(
            streams,
            [len(request.prompt_ids) for request in requests],
            texts,
            one_by_one=body.lookahead.sources,
            observe=observer.observe,
        )


def state_of(request: HttpRequest) -> ServerState:
    """Return the state of the server that a request is for."""
    state: Any = request.app.state
    found: ServerState = state.server
    return found


def access_of(request: HttpRequest) -> Access:
    """Return what a request may do, by its `Authorization` header.

    Raises:
        ApiError: The server has keys, and the request has none of them.
    """
    keys = state_of(request).settings.keys
    if keys is None:
        return Access(is_admin=True)
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    access = keys.access_of(key.strip()) if scheme.lower() == "bearer" else None
    if access is None:
        message = "the API key is missing or wrong; send the header 'Authorization: Bearer KEY'"
        raise ApiError(401, message, code="invalid_api_key")
    return access


def admin_access_of(request: HttpRequest) -> Access:
    """Return what a request may do, if its key is an administrator's.

    Raises:
        ApiError: It is not.
    """
    access = access_of(request)
    if not access.is_admin:
        raise ApiError(403, "this needs an administrator's key", code="admin_key_needed")
    return access


def request_id_of(request: HttpRequest) -> str:
    """Return the id of a request, its own or ours."""
    found: str = request.scope["state"]["request_id"]
    return found
