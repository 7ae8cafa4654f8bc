"""`Engine`, what servers talk to, and `ModelRunner`, what an engine asks of a model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from lookahead.engine.events import TokenLogprobs, TokenSource
from lookahead.engine.request import Request
from lookahead.engine.scheduler import StepPlan
from lookahead.engine.stats import EngineStats
from lookahead.engine.stream import Stream
from lookahead.stats import GenerationStats

State = TypeVar("State")


class Engine(Protocol):
    """Serves many requests at once. All methods may be called from any thread and from coroutines."""

    def submit(self, request: Request) -> Stream:
        """Take a request and return the stream of its events.

        Raises:
            LookaheadError: The request is not allowed, too many wait, or the engine is closed.
        """

    def cancel(self, request_id: int) -> None:
        """End a request: its row is free before the next step. Unknown and ended requests are ignored."""

    def drain(self, timeout: float | None = None) -> bool:
        """Take no more requests, let the others end, and close.

        Args:
            timeout: Seconds after which those that have not ended are cancelled; None for any time.

        Returns:
            Whether all ended by themselves.
        """

    def clear_prefixes(self) -> None:
        """Let the prefix cache forget all texts, before the next step."""

    def stats(self) -> EngineStats:
        """Return what the engine has done so far and is doing."""

    @property
    def is_running(self) -> bool:
        """Whether requests are taken."""

    @property
    def max_request_tokens(self) -> int:
        """The most tokens of prompt and answer together."""


@dataclass(frozen=True)
class Progress:
    """What a step did for a request.

    Attributes:
        held: Tokens that its row holds.
        is_decoding: Whether its prompt has been read.
        tokens: Tokens that were emitted.
        logprobs: For each of them, if they were asked for.
        sources: For each of them, where its draft came from.
        prompt_logprobs: For each token of the prompt, with the answer's first token.
        draft_tokens: Tokens that were drafted and verified.
        accepted_tokens: How many of them the model confirmed.
        is_finished: Whether the answer has ended.
        stop: The token or the string that ended it; None if its length did.
        error: What went wrong for this request; None if nothing did.
    """

    held: int = 0
    is_decoding: bool = False
    tokens: Sequence[int] = ()
    logprobs: Sequence[TokenLogprobs] = ()
    sources: Sequence[TokenSource] = ()
    prompt_logprobs: Sequence[TokenLogprobs | None] = ()
    draft_tokens: int = 0
    accepted_tokens: int = 0
    is_finished: bool = False
    stop: int | str | None = None
    error: Exception | None = None


class ModelRunner(Protocol[State]):
    """A model with the rows of requests. Everything but `prepare` is called by the engine's thread alone.

    Attributes:
        max_rows: Rows that it can hold at once.
        max_request_tokens: The most tokens of prompt and answer.
        max_cached_tokens: Tokens that fit into its cache.
        stats: Counts and seconds of its forward passes.
    """

    max_rows: int
    max_request_tokens: int
    max_cached_tokens: int
    stats: GenerationStats

    def prepare(self, request: Request) -> State:
        """Return a request's state before it has a row; called in any thread.

        Raises:
            LookaheadError: The model cannot serve the request.
        """

    def begin(self, request_id: int, state: State) -> int:
        """Give a request a row; return how many of its tokens the row holds, from the prefix cache."""

    def step(self, plan: StepPlan, publish: Callable[[int, Progress], bool]) -> Mapping[int, Progress]:
        """Do one step; return what it did for each request of the plan.

        Args:
            plan: The step.
            publish: Called with a request and a part of its progress, where a step takes a whole answer;
                returns whether to go on with it.

        Raises:
            Exception: The step failed, with all its requests.
        """

    def release(self, request_id: int) -> None:
        """Take a request's row away; its state stays as it is."""

    def end(self, request_id: int, state: State) -> None:
        """Forget a request, with its row if it has one."""

    def shrink_prefixes(self, max_tokens: int) -> None:
        """Let the prefix cache hold at most so many tokens."""

    @property
    def prefix_tokens(self) -> int:
        """Tokens that the prefix cache holds."""

    def close(self) -> None:
        """Forget everything."""
