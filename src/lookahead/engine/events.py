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
class Finish:
    """How an answer ended.

    Attributes:
        reason: Why.
        usage: Its tokens.
        stop: The token or the string that ended it; None for another reason.
        error: What went wrong; None if nothing did.
    """

    reason: FinishReason
    usage: Usage
    stop: int | str | None = None
    error: Exception | None = None


@dataclass(frozen=True)
class Event:
    """News of a request.

    Attributes:
        tokens: New tokens. Those of one step are in one event; a slow reader gets several steps in one.
        logprobs: For each of them its log-probabilities; empty if the request asked for none.
        finish: How the answer ended, in the last event; else None.
    """

    tokens: Sequence[int] = ()
    logprobs: Sequence[TokenLogprobs] = ()
    finish: Finish | None = None
