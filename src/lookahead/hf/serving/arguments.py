"""The arguments of `generate` that a request stands for: its text is what `generate` returns with them."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lookahead.engine.request import Request
from lookahead.errors import ConfigError, TokenIdError
from lookahead.hf.compat.config import text_config


def generate_arguments(
    model: PreTrainedModel, request: Request, tokenizer: PreTrainedTokenizerBase | None = None
) -> dict[str, Any]:
    """Return the arguments of `model.generate` that give a request's text.

    A seed is not among them: `torch.manual_seed(seed)` comes before the call. With `ignores_end_of_text` and
    no `stop_ids`, only the length and stop strings end the answer, which no argument of `generate` says.

    Raises:
        TokenIdError: A token is not in the model's vocabulary.
        ConfigError: There are stop strings but no tokenizer.
    """
    _check_tokens(model, request)
    if request.stop_strings and tokenizer is None:
        message = (
            f"stop_strings={request.stop_strings!r:.80} need the model's tokenizer: give it to the engine"
        )
        raise ConfigError(message)
    sampling = request.sampling
    ends = end_tokens(model, request)
    arguments: dict[str, Any] = {
        "inputs": torch.tensor([request.prompt_ids], device=model.device),
        "max_new_tokens": request.max_tokens,
        "do_sample": not sampling.is_greedy,
        "repetition_penalty": sampling.repetition_penalty,
        "bad_words_ids": [list(words) for words in sampling.bad_words] or None,
        "sequence_bias": {(token,): float(bias) for token, bias in sampling.logit_bias.items()} or None,
        "min_new_tokens": (min(sampling.min_tokens, request.max_tokens) or None) if ends else None,
        "logits_processor": LogitsProcessorList([*_penalties(request), *request.processors]),
        "pad_token_id": ends[0] if ends else 0,
    }
    arguments["attention_mask"] = torch.ones_like(arguments["inputs"])
    if ends:
        arguments["eos_token_id"] = ends
    if not sampling.is_greedy:
        arguments |= {
            "temperature": float(sampling.temperature),
            "top_k": sampling.top_k,
            "top_p": float(sampling.top_p),
            "min_p": float(sampling.min_p) or None,
        }
    if request.stop_strings:
        arguments |= {"stop_strings": list(request.stop_strings), "tokenizer": tokenizer}
    return arguments


def end_tokens(model: PreTrainedModel, request: Request) -> list[int]:
    """Return the tokens that end a request's answer."""
    config: Any = model.generation_config
    own = [] if config is None or config.eos_token_id is None else config.eos_token_id
    own = [own] if isinstance(own, int) else list(own)
    return [*([] if request.ignores_end_of_text else own), *map(int, request.stop_ids)]


def _check_tokens(model: PreTrainedModel, request: Request) -> None:
    size = text_config(model).vocab_size
    sampling = request.sampling
    named = {
        "prompt_ids": request.prompt_ids,
        "stop_ids": request.stop_ids,
        "logit_bias": list(sampling.logit_bias),
        "bad_words": [token for words in sampling.bad_words for token in words],
        "predictions": [token for words in request.predictions for token in words],
    }
    for name, tokens in named.items():
        largest = max(tokens, default=0)
        if largest >= size:
            message = f"token {largest} in {name} is not in the vocabulary; tokens are from 0 to {size - 1}"
            raise TokenIdError(message)


def _penalties(request: Request) -> list[LogitsProcessor]:
    sampling = request.sampling
    if sampling.presence_penalty == 0 and sampling.frequency_penalty == 0:
        return []
    return [
        AnswerPenalty(
            len(request.prompt_ids),
            presence=sampling.presence_penalty,
            frequency=sampling.frequency_penalty,
        )
    ]


class AnswerPenalty(LogitsProcessor):
    """OpenAI's presence and frequency penalty: lowers the scores of tokens that the answer contains.

    Args:
        prompt_tokens: Tokens of the prompt, which do not count.
        presence: Subtracted once from each token of the answer.
        frequency: Subtracted once for each time that the answer contains a token.
    """

    def __init__(self, prompt_tokens: int, *, presence: float, frequency: float) -> None:
        self._prompt_tokens = prompt_tokens
        self._presence, self._frequency = presence, frequency

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores [1, V] after the tokens [1, L], less the penalties."""
        counted = Counter(input_ids[0, self._prompt_tokens :].tolist())
        if not counted:
            return scores
        tokens = torch.tensor(list(counted), device=scores.device)
        counts = torch.tensor(list(counted.values()), device=scores.device, dtype=scores.dtype)
        lowered = scores.clone()
        lowered[0, tokens] -= self._presence + self._frequency * counts
        return lowered
