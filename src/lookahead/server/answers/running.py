"""`RunningAnswers`: the choices of one HTTP request, from the engine's events to text."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace

from lookahead.engine.events import Event, Finish, FinishReason, TokenLogprobs, TokenSource, Usage
from lookahead.engine.protocol import Engine
from lookahead.engine.request import Request
from lookahead.engine.stream import Stream
from lookahead.errors import EngineClosedError
from lookahead.server.answers.text import TextStream


@dataclass(frozen=True)
class Delta:
    """News of a choice.

    Attributes:
        choice: Which choice.
        text: More of its text; may be empty.
        tokens: The tokens that came; their text may come later.
        logprobs: For each of them, if they are wanted.
        sources: Where each of them came from.
        forwards: The engine's number of the forward pass of each of them.
        prompt_logprobs: Of the prompt's tokens, if they are wanted.
        finish: How the answer ended, in the last news; else None.
    """

    choice: int
    text: str = ""
    tokens: Sequence[int] = ()
    logprobs: Sequence[TokenLogprobs] = ()
    sources: Sequence[TokenSource] = ()
    forwards: Sequence[int] = ()
    prompt_logprobs: Sequence[TokenLogprobs | None] = ()
    finish: Finish | None = None


@dataclass
class Choice:
    """A whole answer.

    Attributes:
        text: Its text.
        tokens: Its tokens.
        logprobs: Of its tokens.
        prompt_logprobs: Of the prompt's tokens.
        finish: How it ended.
    """

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=list)
    finish: Finish | None = None

    def add(self, delta: Delta) -> None:
        """Add news."""
        self.text += delta.text
        self.tokens += delta.tokens
        self.logprobs += delta.logprobs
        self.prompt_logprobs += delta.prompt_logprobs
        self.finish = delta.finish or self.finish


class RunningAnswers:
    """Requests that the engine answers for one client.

    Args:
        streams: The engine's streams, one for each choice.
        prompt_tokens: Tokens of each choice's prompt.
        texts: Decode the choices' tokens.
        one_by_one: Whether each token is news of its own; else those of a step are.
        observe: Called with each event and its choice, for metrics.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        prompt_tokens: Sequence[int],
        texts: Sequence[TextStream],
        *,
        one_by_one: bool = False,
        observe: Callable[[int, Event], None] = lambda _choice, _event: None,
    ) -> None:
        self._streams, self._texts = streams, texts
        self._one_by_one = one_by_one
        self._observe = observe
        self._usages = [Usage(tokens) for tokens in prompt_tokens]

    @property
    def usages(self) -> Sequence[Usage]:
        """The usage of each choice so far; what was cached, drafted and accepted is known at its end."""
        return self._usages

    def cancel(self) -> None:
        """End the requests: their rows are free before the next step. What has ended is left alone."""
        for stream in self._streams:
            stream.cancel()

    async def deltas(self) -> AsyncIterator[Delta]:
        """Return news of all choices as they come. Whoever stops reading cancels the requests.

        Raises:
            Exception: What ended a request.
        """
        queue: asyncio.Queue[tuple[int, Event | Exception]] = asyncio.Queue(len(self._streams))
        tasks = [asyncio.create_task(self._pump(choice, queue)) for choice in range(len(self._streams))]
        unfinished = len(tasks)
        try:
            while unfinished:
                choice, event = await queue.get()
                if isinstance(event, Exception):
                    raise event
                self._observe(choice, event)
                before = self._usages[choice]
                completion = before.completion_tokens + len(event.tokens)
                self._usages[choice] = replace(before, completion_tokens=completion)
                if event.finish is not None:
                    unfinished -= 1
                    self._usages[choice] = event.finish.usage
                    if event.finish.error is not None:
                        raise event.finish.error
                    if event.finish.reason is FinishReason.CANCELLED:  # not by us: the engine closes
                        message = "the server is shutting down"
                        raise EngineClosedError(message)
                for delta in self._deltas_of(choice, event):
                    yield delta
        finally:
            self.cancel()
            for task in tasks:
                task.cancel()

    async def choices(self) -> list[Choice]:
        """Wait for all choices.

        Raises:
            Exception: What ended a request.
        """
        made = [Choice() for _ in self._streams]
        async for delta in self.deltas():
            made[delta.choice].add(delta)
        return made

    async def _pump(self, choice: int, queue: "asyncio.Queue[tuple[int, Event | Exception]]") -> None:
        try:
            async for event in self._streams[choice]:
                await queue.put((choice, event))
        except Exception as error:  # noqa: BLE001  it is raised where the events are read
            await queue.put((choice, error))

    def _deltas_of(self, choice: int, event: Event) -> list[Delta]:
        text = self._texts[choice]
        rest = text.end(event.finish.stop) if event.finish is not None and not event.tokens else ""
        if not event.tokens:
            return [Delta(choice, rest, prompt_logprobs=event.prompt_logprobs, finish=event.finish)]
        parts = range(len(event.tokens)) if self._one_by_one else range(1)
        made = []
        for part in parts:
            where = slice(part, part + 1) if self._one_by_one else slice(None)
            is_last = part == parts[-1]
            piece = text.push(event.tokens[where], ends=is_last and _ends_by_token(event))
            if is_last and event.finish is not None:
                piece += text.end(event.finish.stop)
            made.append(
                Delta(
                    choice,
                    piece,
                    tokens=event.tokens[where],
                    logprobs=event.logprobs[where],
                    sources=event.sources[where],
                    forwards=event.forwards[where],
                    prompt_logprobs=event.prompt_logprobs if part == 0 else (),
                    finish=event.finish if is_last else None,
                )
            )
        return made


def _ends_by_token(event: Event) -> bool:
    """Return whether the last token of an event is the one that ended the answer: it has no text."""
    return event.finish is not None and isinstance(event.finish.stop, int)


async def submit_all(engine: Engine, requests: Sequence[Request]) -> list[Stream]:
    """Submit the requests of one client, all or none.

    Raises:
        LookaheadError: The engine does not take one of them.
    """
    streams: list[Stream] = []
    try:
        for request in requests:
            streams.append(await _submit(engine, request))  # noqa: PERF401  those before are cancelled
    except BaseException:
        for stream in streams:
            stream.cancel()
        raise
    return streams


async def _submit(engine: Engine, request: Request) -> Stream:
    """Submit a request in a thread, since preparing it takes milliseconds."""
    submitting = asyncio.ensure_future(asyncio.to_thread(engine.submit, request))
    try:
        return await asyncio.shield(submitting)
    except asyncio.CancelledError:  # the client went away; the thread goes on and its stream is cancelled
        submitting.add_done_callback(_cancel_result)
        raise


def _cancel_result(submitting: "asyncio.Future[Stream]") -> None:
    if not submitting.cancelled() and submitting.exception() is None:
        submitting.result().cancel()
