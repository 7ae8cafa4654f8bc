"""`Request`: what an engine is asked for, checked when it is created."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Any

from lookahead.config import check_bool, check_integer
from lookahead.drafting.store import DEFAULT_NAMESPACE, check_namespaces
from lookahead.errors import ConfigError

MAX_TOP_LOGPROBS = 20
MAX_SEED = 2**63 - 1
_LARGEST_TOKEN = 2**31 - 1

Processor = Callable[[Any, Any], Any]
"""A logits processor of transformers: maps tokens so far [1, L] and scores [1, V] to new scores [1, V]."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the tokens of an answer are chosen. The defaults choose greedily and change no score.

    Args:
        temperature: 0 chooses the most probable token; otherwise scores are divided by it.
        top_k: Sample from the k most probable tokens; 0 for all.
        top_p: Sample from the most probable tokens that together have this probability.
        min_p: Sample from tokens with at least this share of the largest probability.
        seed: The same text under any load; None for fresh randomness.
        repetition_penalty: Divides the scores of tokens of prompt and answer, as in transformers.
        presence_penalty: Subtracted from the scores of tokens that the answer contains, as in OpenAI's API.
        frequency_penalty: Subtracted once for each time that the answer contains a token.
        logit_bias: Added to the scores, by token.
        bad_words: Token sequences that the answer must not contain.
        min_tokens: The answer does not end by a token before it has this many.

    Raises:
        ConfigError: A value is out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    bad_words: Sequence[Sequence[int]] = ()
    min_tokens: int = 0

    def __post_init__(self) -> None:
        _check_number("temperature", self.temperature, 0.0, math.inf)
        check_integer("top_k", self.top_k, smallest=0, largest=_LARGEST_TOKEN)
        _check_number("top_p", self.top_p, 0.0, 1.0, excludes_smallest=True)
        _check_number("min_p", self.min_p, 0.0, 1.0)
        if self.seed is not None:
            check_integer("seed", self.seed, smallest=0, largest=MAX_SEED)
        _check_number("repetition_penalty", self.repetition_penalty, 0.0, math.inf, excludes_smallest=True)
        _check_number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        check_integer("min_tokens", self.min_tokens, smallest=0, largest=_LARGEST_TOKEN)
        if not isinstance(self.logit_bias, Mapping):
            message = f"logit_bias={self.logit_bias!r:.80} is not allowed; give a bias for each token"
            raise ConfigError(message)
        object.__setattr__(self, "logit_bias", dict(self.logit_bias))  # the caller may change theirs
        for token, bias in self.logit_bias.items():
            check_integer("a token of logit_bias", token, smallest=0, largest=_LARGEST_TOKEN)
            _check_number(f"logit_bias[{token}]", bias, -math.inf, math.inf, excludes_smallest=True)
        object.__setattr__(self, "bad_words", _token_lists("bad_words", self.bad_words))

    @property
    def is_greedy(self) -> bool:
        """Whether the most probable token is chosen."""
        return self.temperature == 0


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt, how it is to be answered, and whose it is.

    Args:
        prompt_ids: The prompt's tokens, at least one.
        max_tokens: The most tokens of the answer.
        sampling: How the tokens are chosen.
        stop_strings: The answer ends with the token that completes one of them.
        stop_ids: Tokens that end the answer, besides the model's own end of text.
        ignores_end_of_text: Whether the model's own end of text does not end the answer.
        logprobs: For each token, the log-probabilities of this many most probable tokens and of the token
            itself, of the model's raw logits; None for none.
        prompt_logprobs: Likewise for each token of the prompt but its first; the whole prompt is then read.
        processors: Logits processors of transformers (a grammar, …), called after the penalties and before
            temperature and the like, once per token, as `generate` calls them. They serve this request alone.
        namespace: The namespace that the answer belongs to and is drafted from.
        reads: Further namespaces to draft from.
        remember: Whether later requests may use anything of it: its answer, the guesses beside that,
            or its keys and values in the prefix cache.
        predictions: Token sequences that the answer may resemble. They are drafted from as the prompt is, and
            change nothing in the text.
        priority: Requests with a lower number come first.

    Raises:
        ConfigError: A value is out of range; the message says what is allowed.
    """

    prompt_ids: Sequence[int]
    max_tokens: int = 256
    sampling: Sampling = field(default_factory=Sampling)
    stop_strings: Sequence[str] = ()
    stop_ids: Sequence[int] = ()
    ignores_end_of_text: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    processors: Sequence[Processor] = ()
    namespace: str = DEFAULT_NAMESPACE
    reads: Sequence[str] = ()
    remember: bool = True
    predictions: Sequence[Sequence[int]] = ()
    priority: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.sampling, Sampling):
            message = f"sampling={self.sampling!r:.80} is not allowed; give Sampling(temperature=…)"
            raise ConfigError(message)
        own = {  # the caller may change theirs
            "prompt_ids": _tokens("prompt_ids", self.prompt_ids),
            "stop_ids": _tokens("stop_ids", self.stop_ids, least=0),
            "predictions": _token_lists("predictions", self.predictions),
            "stop_strings": _sequence("stop_strings", self.stop_strings),
            "processors": _sequence("processors", self.processors),
            "reads": _sequence("reads", self.reads),
        }
        for name, value in own.items():
            object.__setattr__(self, name, value)
        check_integer("max_tokens", self.max_tokens, smallest=1, largest=_LARGEST_TOKEN)
        check_integer("priority", self.priority, smallest=-_LARGEST_TOKEN, largest=_LARGEST_TOKEN)
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), smallest=0, largest=MAX_TOP_LOGPROBS)
        for name in ("ignores_end_of_text", "remember"):
            check_bool(name, getattr(self, name))
        if not all(isinstance(text, str) and text for text in self.stop_strings):
            message = f"stop_strings={self.stop_strings!r:.80} is not allowed; give texts that are not empty"
            raise ConfigError(message)
        for processor in self.processors:
            if not callable(processor):
                message = f"processors={processor!r:.80} is not allowed; give logits processors"
                raise ConfigError(message)
        check_namespaces(self.namespace, self.reads)


def _sequence(name: str, value: object) -> tuple[Any, ...]:
    """Return what a sequence holds.

    Raises:
        ConfigError: It is none, or a single string.
    """
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        message = f"{name}={value!r:.80} is not allowed; give a sequence"
        raise ConfigError(message)
    return tuple(value)


def _tokens(name: str, value: object, *, least: int = 1) -> tuple[int, ...]:
    """Return the token ids of a sequence.

    Raises:
        ConfigError: It holds something else, or fewer than `least`.
    """
    tokens = _sequence(name, value)
    try:
        found = tuple(index(token) for token in tokens if not isinstance(token, bool))
    except TypeError:
        found = ()
    if len(found) < max(least, len(tokens)) or not all(0 <= token <= _LARGEST_TOKEN for token in found):
        message = f"{name}={value!r:.80} is not allowed; give at least {least} token ids, each from 0 up"
        raise ConfigError(message)
    return found


def _token_lists(name: str, value: object) -> tuple[tuple[int, ...], ...]:
    """Return the token ids of several sequences of at least one token."""
    return tuple(_tokens(f"a sequence of {name}", words) for words in _sequence(name, value))


def _check_number(
    name: str, value: object, smallest: float, largest: float, *, excludes_smallest: bool = False
) -> None:
    try:
        is_number = not isinstance(value, bool | str) and math.isfinite(value)  # type: ignore[arg-type]
    except (TypeError, OverflowError):
        is_number = False
    if not is_number or not smallest <= value <= largest or (excludes_smallest and value == smallest):  # type: ignore[operator]
        begin = f"above {smallest}" if excludes_smallest else f"from {smallest}"
        message = f"{name}={value!r:.80} is not allowed; give a number {begin} to {largest}"
        raise ConfigError(message)
