"""Checks that refuse unsupported models and calls before anything is generated or learned."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation.configuration_utils import GenerationMode

from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.errors import PromptTooLongError, UnsupportedGenerationError, UnsupportedModelError
from lookahead.hf.cache.callers_cache import can_be_brought_up_to_date, is_callers_cache, layout_behind
from lookahead.hf.compat.call import GenerateCall
from lookahead.hf.compat.config import has_own_sampling_loop, text_config
from lookahead.hf.compat.layout import AttentionLayout, cache_of
from lookahead.hf.compat.limits import DraftLimits, rope_switches_at

SERVED_MODES = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)
"""The modes of the one-token loop of transformers."""

_WITHOUT = "or call model.generate without Lookahead"


def checked_layout(generate_call: GenerateCall) -> AttentionLayout:
    """Check a call and return how the model's layers see the past.

    Raises:
        LookaheadError: The call cannot be served; the message says why and what to do.
    """
    model, model_kwargs = generate_call.model, generate_call.model_kwargs
    check_model(model)
    check_call(model, generate_call.generation_config)
    check_prompt(model, generate_call.input_ids, model_kwargs.get("inputs_embeds"))
    cache = cache_of(model_kwargs)
    check_cache(cache)
    return layout_behind(model, cache)


def check_model(model: PreTrainedModel) -> None:
    """Check that a model is decoder-only and uses the decoding loop of transformers.

    Raises:
        UnsupportedModelError: It is an encoder-decoder, or its class has its own sampling loop.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        message = (
            f"{type(model).__name__} is an encoder-decoder; Lookahead supports decoder-only models: "
            f"choose one, {_WITHOUT}"
        )
        raise UnsupportedModelError(message)
    if has_own_sampling_loop(model):
        message = (
            f"{type(model).__name__} decodes in a loop of its own, which Lookahead does not support: "
            f"choose another model, {_WITHOUT}"
        )
        raise UnsupportedModelError(message)


def check_call(model: PreTrainedModel, generation_config: Any) -> None:
    """Check the generation settings of a call.

    Raises:
        UnsupportedGenerationError: A setting is not supported; the message names it and what is allowed.
    """
    if (generation_config.num_beams or 1) > 1:
        _refuse("num_beams", generation_config.num_beams, "set num_beams=1 (greedy or sampling)")
    mode = generation_config.get_generation_mode()
    if mode not in SERVED_MODES:
        _refuse("the generation mode", mode.value, "choose greedy search or sampling")
    if not generation_config.use_cache:
        _refuse("use_cache", generation_config.use_cache, "set use_cache=True")
    for setting in ("output_attentions", "output_hidden_states"):
        if getattr(generation_config, setting, False):
            _refuse(setting, value=True, remedy=f"set {setting}=False")
    if generation_config.cache_implementation not in (None, "dynamic"):
        _refuse("cache_implementation", generation_config.cache_implementation, "leave it unset")
    chunk = generation_config.prefill_chunk_size
    if chunk is not None and rope_switches_at(model) is not None:
        _refuse("prefill_chunk_size", chunk, "leave it unset for models with longrope RoPE")


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Check that no argument of `generate` selects another decoding loop.

    Raises:
        UnsupportedGenerationError: One does; the message names it.
    """
    for name in ("assistant_model", "custom_generate"):
        if arguments.get(name) is not None:
            _refuse(name, type(arguments[name]).__name__, "leave it out")


def check_cache(cache: object) -> None:
    """Check that Lookahead can read and update the caller's cache.

    Raises:
        UnsupportedGenerationError: It cannot; the message names the cache's class.
    """
    if is_callers_cache(cache) and not can_be_brought_up_to_date(cache):
        _refuse("past_key_values", type(cache).__name__, "give a DynamicCache that is not offloaded, or none")


def _refuse(setting: str, value: object, remedy: str) -> None:
    message = f"{setting}={value!r} cannot be combined with Lookahead; {remedy}, {_WITHOUT}"
    raise UnsupportedGenerationError(message)


def check_prompt(model: PreTrainedModel, input_ids: Tensor, embeddings: Tensor | None) -> None:
    """Check that a prompt, token ids or embeddings, fits the model's context.

    Raises:
        PromptTooLongError: It does not; the message gives both lengths.
    """
    context = DraftLimits.of(model).context  # None with dynamic RoPE, which has no limit
    length = input_ids.shape[1] if embeddings is None else embeddings.shape[1]
    if context is not None and length > context:
        message = (
            f"the prompt has {length} tokens, {type(model).__name__}'s context is {context}; "
            f"give a prompt of at most {context} tokens"
        )
        raise PromptTooLongError(message)


def check_memory(model: PreTrainedModel, memory: DraftMemory) -> None:
    """Bind a fresh memory to the model's vocabulary size.

    Raises:
        VocabularyMismatchError: The memory holds tokens of a vocabulary of another size.
    """
    memory.bind(vocabulary_size=text_config(model).vocab_size)
