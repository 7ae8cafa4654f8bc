"""`Stream`: the events of a request on their way from the engine's thread to a reader."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from threading import Condition

from lookahead.engine.events import Event, Finish, TokenLogprobs, TokenSource


@dataclass(frozen=True)
class Answer:
    """A whole answer.

    Attributes:
        tokens: Its tokens, an end token included.
        logprobs: For each token its log-probabilities, if the request asked for them.
        finish: How it ended.
        sources: For each token, where its draft came from.
        prompt_logprobs: For each token of the prompt, if the request asked for them.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...]
    finish: Finish
    sources: tuple[TokenSource, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs | None, ...] = ()


class Stream:
    """The events of one request, for one reader: a thread (`for`) or a coroutine (`async for`).

    A reader that is slow holds up nothing: events that wait become one, so a stream never holds more than one
    answer's tokens.

    Args:
        request_id: The engine's number of the request.
        cancel: Cancels the request.
    """

    def __init__(self, request_id: int, cancel: Callable[[int], None]) -> None:
        self.request_id = request_id
        self._cancel = cancel
        self._changed = Condition()
        self._tokens: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._sources: list[TokenSource] = []
        self._forwards: list[int] = []
        self._prompt_logprobs: list[TokenLogprobs | None] = []
        self._finish: Finish | None = None
        self._is_ended = False
        self._wake: Callable[[], None] | None = None

    def cancel(self) -> None:
        """Cancel the request: its row is free before the next step. After its end this does nothing."""
        self._cancel(self.request_id)

    def put(self, event: Event) -> None:
        """Add an event; called by the engine. Nothing follows the event that has a `finish`."""
        with self._changed:
            self._tokens += event.tokens
            self._logprobs += event.logprobs
            self._sources += event.sources
            self._forwards += event.forwards
            self._prompt_logprobs += event.prompt_logprobs
            self._finish = event.finish
            self._changed.notify_all()
            if self._wake is not None:
                self._wake()

    def get(self, timeout: float | None = None) -> Event | None:
        """Return the next event, or None after the last one.

        Args:
            timeout: Seconds to wait; None for as long as it takes.

        Raises:
            TimeoutError: There was no event in that time.
        """
        with self._changed:
            if self._is_ended:
                return None
            if not self._changed.wait_for(self._has_event, timeout):
                message = f"no event of request {self.request_id} in {timeout} s"
                raise TimeoutError(message)
            return self._take()

    def result(self, timeout: float | None = None) -> Answer:
        """Wait for the end and return the answer, what was read before left out.

        Args:
            timeout: Seconds to wait for each step. After a `TimeoutError` the answer may be asked for again.

        Raises:
            TimeoutError: There was no step in that time.
            ValueError: The last event has been read already.
            Exception: What ended the request, if it failed.
        """
        with self._changed:
            if self._is_ended:
                message = f"the events of request {self.request_id} have been read already"
                raise ValueError(message)
            while self._finish is None:
                seen = len(self._tokens)
                if not self._changed.wait_for(partial(self._has_more_than, seen), timeout):
                    message = f"no event of request {self.request_id} in {timeout} s"
                    raise TimeoutError(message)
            finish, event = self._finish, self._take()
        if finish.error is not None:
            raise finish.error
        return Answer(
            tuple(event.tokens),
            tuple(event.logprobs),
            finish,
            tuple(event.sources),
            tuple(event.prompt_logprobs),
        )

    def __iter__(self) -> Iterator[Event]:
        while (event := self.get()) is not None:
            yield event

    async def __aiter__(self) -> AsyncIterator[Event]:
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        with self._changed:
            self._wake = lambda: _wake(loop, woken)
        try:
            while not self._is_ended:
                with self._changed:
                    woken.clear()
                    event = self._take() if self._has_event() else None
                if event is None:
                    await woken.wait()
                else:
                    yield event
        finally:
            with self._changed:
                self._wake = None

    def _has_more_than(self, tokens: int) -> bool:
        return len(self._tokens) > tokens or self._finish is not None

    def _has_event(self) -> bool:
        return bool(self._tokens) or self._finish is not None

    def _take(self) -> Event:
        """Return what waits as one event; the lock is held and something waits."""
        event = Event(
            tuple(self._tokens),
            tuple(self._logprobs),
            self._finish,
            tuple(self._sources),
            tuple(self._forwards),
            tuple(self._prompt_logprobs),
        )
        self._tokens, self._logprobs, self._sources, self._forwards = [], [], [], []
        self._prompt_logprobs = []
        self._is_ended, self._finish = self._finish is not None, None
        return event


def _wake(loop: asyncio.AbstractEventLoop, woken: asyncio.Event) -> None:
    """Set an event of a loop that may have been closed since."""
    try:
        loop.call_soon_threadsafe(woken.set)
    except RuntimeError:
        return
