"""From a body to the engine's requests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lookahead.engine.request import MAX_SEED, Processor, Request, Sampling
from lookahead.errors import ConfigError, first_line
from lookahead.server.answers.prompts import check_tokens
from lookahead.server.http.errors import ApiError
from lookahead.server.protocol.common import AnswerBody, ManyAnswersBody
from lookahead.server.served_model import ServedModel

_GREEDY_BELOW = 1e-5
"""Scores divided by less leave the range of a float; as in vLLM this counts as 0."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a body wants besides the fields that all bodies have.

    Attributes:
        prompt_ids: The prompt.
        prompt_param: The field that it comes from.
        max_tokens: The most tokens of the answer; None for as many as fit.
        scope: The namespace, and those that are read besides.
        logprobs: As in `Request`.
        prompt_logprobs: Likewise.
        processors: Likewise.
        prediction_ids: The tokens of a predicted answer.
    """

    prompt_ids: Sequence[int]
    prompt_param: str
    max_tokens: int | None
    scope: tuple[str, tuple[str, ...]]
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    processors: Sequence[Processor] = ()
    prediction_ids: Sequence[int] = ()


def engine_request(model: ServedModel, body: AnswerBody, wanted: Wanted, *, uses_defaults: bool) -> Request:
    """Return the engine's request for a body's first choice.

    Raises:
        ApiError: Something is not allowed.
    """
    check_tokens(model, wanted.prompt_ids, "prompt")
    room = model.context - len(wanted.prompt_ids)
    if room < 1 or (wanted.max_tokens or 0) > room:
        asked = "" if wanted.max_tokens is None else f" and {wanted.max_tokens} tokens of the answer"
        message = (
            f"the model's context is {model.context} tokens; this request has {len(wanted.prompt_ids)} "
            f"tokens of the prompt{asked}; shorten them"
        )
        param = wanted.prompt_param if room < 1 else "max_tokens"
        raise ApiError(400, message, param=param, code="context_length_exceeded")
    processors = list(wanted.processors)
    if body.allowed_token_ids is not None:
        check_tokens(model, body.allowed_token_ids, "allowed_token_ids")
        processors.append(AllowedTokens(body.allowed_token_ids))
    namespace, reads = wanted.scope
    check_tokens(model, body.stop_token_ids or (), "stop_token_ids")
    try:
        return Request(
            prompt_ids=wanted.prompt_ids,
            max_tokens=room if wanted.max_tokens is None else wanted.max_tokens,
            sampling=sampling_of(model, body, uses_defaults=uses_defaults),
            stop_strings=body.stop_strings,
            stop_ids=body.stop_token_ids or (),
            ignores_end_of_text=body.ignore_eos,
            logprobs=wanted.logprobs,
            prompt_logprobs=wanted.prompt_logprobs,
            processors=processors,
            namespace=namespace,
            reads=reads,
            remember=body.lookahead.remember,
            predictions=[wanted.prediction_ids] if wanted.prediction_ids else [],
            priority=body.priority,
        )
    except ConfigError as error:
        raise ApiError(400, first_line(error)) from None


def requests_of_choices(
    model: ServedModel, body: ManyAnswersBody, wanted: Callable[[], Wanted], *, uses_defaults: bool
) -> list[Request]:
    """Return the engine's requests for a prompt, one for each choice.

    Args:
        model: The model.
        body: What was asked.
        wanted: Called for each choice, since each has its own place in a grammar.
        uses_defaults: Whether the model's own sampling settings are the defaults.

    Raises:
        ApiError: Something is not allowed.
    """
    return [
        choice_of(engine_request(model, body, wanted(), uses_defaults=uses_defaults), choice)
        for choice in range(body.choices)
    ]


def choice_of(request: Request, choice: int) -> Request:
    """Return the request for a choice of several: choice i has seed + i."""
    seed = request.sampling.seed
    if choice == 0 or seed is None:
        return request
    return replace(request, sampling=replace(request.sampling, seed=(seed + choice) % (MAX_SEED + 1)))


def sampling_of(model: ServedModel, body: AnswerBody, *, uses_defaults: bool) -> Sampling:
    """Return a body's sampling settings; those that it leaves out are OpenAI's, or the model's own."""
    defaults: dict[str, Any] = {
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }
    defaults |= model.defaults if uses_defaults else {}
    given = {name: getattr(body, name) for name in defaults}
    chosen = defaults | {name: value for name, value in given.items() if value is not None}
    temperature = float(chosen["temperature"])
    return Sampling(
        temperature=temperature if temperature >= _GREEDY_BELOW else 0.0,
        top_k=max(0, int(chosen["top_k"])),
        top_p=float(chosen["top_p"]),
        min_p=float(chosen["min_p"]),
        seed=None if body.seed is None else body.seed % (MAX_SEED + 1),
        repetition_penalty=float(chosen["repetition_penalty"]),
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        logit_bias=_biases(model, body.logit_bias or {}),
        bad_words=[_word_tokens(model, word) for word in body.bad_words or ()],
        min_tokens=body.min_tokens,
    )


class AllowedTokens:
    """A logits processor that forbids all tokens but some.

    Args:
        tokens: Those that are allowed.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = torch.tensor(sorted(set(tokens)))

    def __call__(self, _input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores [1, V] with all other tokens at minus infinity."""
        tokens = self._tokens.to(scores.device)
        allowed = torch.full_like(scores, float("-inf"))
        allowed[:, tokens] = scores[:, tokens]
        return allowed


def _biases(model: ServedModel, given: dict[str, float]) -> dict[int, float]:
    biases = {}
    for name, bias in given.items():
        if not (name.isascii() and name.isdigit() and len(name) <= 10) or int(name) >= model.vocabulary_size:
            message = f"logit_bias has {name!r:.80}, which is no token from 0 to {model.vocabulary_size - 1}"
            raise ApiError(400, message, param="logit_bias")
        if not -100 <= bias <= 100:
            raise ApiError(400, f"logit_bias[{name}] is {bias}; give -100 to 100", param="logit_bias")
        biases[int(name)] = bias
    return biases


def _word_tokens(model: ServedModel, word: str) -> list[int]:
    tokens: list[int] = model.tokenizer(word, add_special_tokens=False)["input_ids"]
    if not tokens:
        raise ApiError(400, "a word of bad_words has no tokens; leave it out", param="bad_words")
    return tokens
