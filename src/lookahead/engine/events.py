"""What an engine answers: events with the tokens of a step, the last with the reason of the end."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probabilities at one token, of the model's raw logits.

    Attributes:
        token: The token.
        logprob: Its log-probability.
        top: The most probable tokens with theirs, most probable first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class TokenSource(StrEnum):
    """Where the draft of a token came from."""

    PROMPT = "prompt"
    """The request's own text: its prompt, its predictions and its answer so far."""
    MEMORY = "memory"
    """Earlier answers, of the namespaces that the request reads."""
    GUESS = "guess"
    """The model's own next-best tokens of earlier steps."""
    PLAIN = "plain"
    """It was not drafted: the forward pass itself gave it."""


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    """By an end token or a stop string."""
    LENGTH = "length"
    """It has `max_tokens` tokens."""
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True)
class Usage:
    """The tokens of a request.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        cached_tokens: How many of them the prefix cache held.
        completion_tokens: Tokens of the answer.
        draft_tokens: Tokens that were drafted and verified.
        accepted_tokens: Drafted tokens that the model confirmed.
    """

    prompt_tokens: int
    cached_tokens: int = 0
    completion_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True)
class RequestSeconds:
    """Where a request's time went. The last three are of all steps that it took part in, shared with others.

    Attributes:
        queued: From its submission until it first had a row.
        prompt: From then to its first token.
        decode: From its first token to its last.
        draft: Proposing drafts and learning from what came.
        model: Forward passes.
        choose: Choosing tokens: processors, sampling, stop strings.
    """

    queued: float = 0.0
    prompt: float = 0.0
    decode: float = 0.0
    draft: float = 0.0
    model: float = 0.0
    choose: float = 0.0


@dataclass(frozen=True)
class Finish:
    """How an answer ended.

    Attributes:
        reason: Why.
        usage: Its tokens.
        stop: The token or the string that ended it; None for another reason.
        error: What went wrong; None if nothing did.
        seconds: Where its time went.
    """

    reason: FinishReason
    usage: Usage
    stop: int | str | None = None
    error: Exception | None = None
    seconds: RequestSeconds = RequestSeconds()


@dataclass(frozen=True)
class Event:
    """News of a request.

    Attributes:
        tokens: New tokens. Those of one step are in one event; a slow reader gets several steps in one.
        logprobs: For each of them its log-probabilities; empty if the request asked for none.
        finish: How the answer ended, in the last event; else None.
        sources: For each token, where its draft came from.
        forwards: For each token, the number of the engine's step that gave it.
        prompt_logprobs: For each token of the prompt, None for its first, before the first token of the
            answer; empty if the request asked for none.
    """

    tokens: Sequence[int] = ()
    logprobs: Sequence[TokenLogprobs] = ()
    finish: Finish | None = None
    sources: Sequence[TokenSource] = ()
    forwards: Sequence[int] = ()
    prompt_logprobs: Sequence[TokenLogprobs | None] = ()
