"""What Lookahead cannot do is refused before anything is generated or learned."""

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from lookahead.errors import (
    PromptTooLongError,
    UnsupportedGenerationError,
    UnsupportedModelError,
    VocabularyMismatchError,
)
from lookahead.hf.compat import text_config

_WITHOUT = "or call model.generate without Lookahead"


def check_model(model: PreTrainedModel) -> None:
    """Refuse models that are not decoder-only.

    Raises:
        UnsupportedModelError: it is an encoder-decoder.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        message = (
            f"{type(model).__name__} is an encoder-decoder; Lookahead decodes decoder-only models: "
            f"choose one, {_WITHOUT}"
        )
        raise UnsupportedModelError(message)


def check_call(input_ids: Tensor, generation_config: Any, model_kwargs: dict[str, Any]) -> None:
    """Refuse what a call to `generate` may ask for and Lookahead cannot give.

    Raises:
        UnsupportedGenerationError: names the setting, its value and what is allowed.
    """
    if (generation_config.num_beams or 1) > 1:
        _refuse("num_beams", generation_config.num_beams, "set num_beams=1 (greedy or sampling)")
    if not generation_config.use_cache:
        _refuse("use_cache", generation_config.use_cache, "set use_cache=True")
    if input_ids.shape[0] != 1:
        _refuse("batch size", input_ids.shape[0], "give one sequence a call, with num_return_sequences=1")
    for setting in ("output_attentions", "output_hidden_states"):
        if getattr(generation_config, setting, False):
            _refuse(setting, value=True, remedy=f"set {setting}=False")
    cache = model_kwargs.get("past_key_values")
    if generation_config.cache_implementation not in (None, "dynamic"):
        _refuse("cache_implementation", generation_config.cache_implementation, "leave it unset")
    if cache is not None and getattr(cache, "_is_user_defined", False):
        _refuse("past_key_values", type(cache).__name__, "leave it out: Lookahead keeps a cache of its own")


def _refuse(setting: str, value: object, remedy: str) -> None:
    message = f"{setting}={value!r} cannot be combined with Lookahead; {remedy}, {_WITHOUT}"
    raise UnsupportedGenerationError(message)


def check_prompt(model: PreTrainedModel, input_ids: Tensor) -> None:
    """Refuse a prompt that the model has no positions for.

    Raises:
        PromptTooLongError: says how long it is and how long it may be.
    """
    context = getattr(text_config(model), "max_position_embeddings", None)
    if context is not None and input_ids.shape[1] > context:
        message = (
            f"the prompt has {input_ids.shape[1]} tokens, {type(model).__name__}'s context is {context}; "
            "shorten the prompt"
        )
        raise PromptTooLongError(message)


def check_memory(model: PreTrainedModel, vocabulary_size: int | None) -> int:
    """Return the model's vocabulary size; refuse a model whose tokens are not those of the memory.

    Raises:
        VocabularyMismatchError: the memory has learned from a vocabulary of another size.
    """
    size: int = text_config(model).vocab_size
    if vocabulary_size is not None and size != vocabulary_size:
        message = (
            f"this Lookahead's memory holds tokens of a vocabulary of {vocabulary_size}, "
            f"{type(model).__name__} has one of {size}; use a Lookahead of its own for each vocabulary"
        )
        raise VocabularyMismatchError(message)
    return size
