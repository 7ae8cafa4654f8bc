"""What Lookahead cannot do is refused before anything is generated or learned."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation.configuration_utils import GenerationMode

from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.errors import (
    PromptTooLongError,
    UnsupportedGenerationError,
    UnsupportedModelError,
)
from lookahead.hf.cache.callers_cache import can_be_brought_up_to_date, is_callers, layout_behind
from lookahead.hf.compat.call import GenerateCall
from lookahead.hf.compat.config import has_loop_of_its_own, text_config
from lookahead.hf.compat.layout import AttentionLayout, made_cache
from lookahead.hf.compat.limits import DraftLimits, rope_switches_at

SERVED_MODES = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)
"""What the library's loop of one token a step is for."""

_WITHOUT = "or call model.generate without Lookahead"


def checked_layout(generate_call: GenerateCall) -> AttentionLayout:
    """Refuse what cannot be served; return how the model's layers see the past.

    Raises:
        LookaheadError: says what, and what to do.
    """
    model, model_kwargs = generate_call.model, generate_call.model_kwargs
    check_model(model)
    check_call(model, generate_call.generation_config)
    check_prompt(model, generate_call.input_ids, model_kwargs.get("inputs_embeds"))
    cache = made_cache(model_kwargs)
    check_cache(cache)
    return layout_behind(model, cache)


def check_model(model: PreTrainedModel) -> None:
    """Refuse models that are not decoder-only, and those that decode in a loop of their own.

    Raises:
        UnsupportedModelError: it is an encoder-decoder, or its class has another `_sample`.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        message = (
            f"{type(model).__name__} is an encoder-decoder; Lookahead decodes decoder-only models: "
            f"choose one, {_WITHOUT}"
        )
        raise UnsupportedModelError(message)
    if has_loop_of_its_own(model):
        message = (
            f"{type(model).__name__} decodes in a loop of its own, which Lookahead does not know: "
            f"choose another model, {_WITHOUT}"
        )
        raise UnsupportedModelError(message)


def check_call(model: PreTrainedModel, generation_config: Any) -> None:
    """Refuse what a call to `generate` may ask for and Lookahead cannot give.

    Raises:
        UnsupportedGenerationError: names the setting, its value and what is allowed.
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
        _refuse("prefill_chunk_size", chunk, "leave it unset where RoPE is of the longrope type")


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of `generate` that it would not hand over, and that ask for another way of decoding.

    Raises:
        UnsupportedGenerationError: names the argument.
    """
    for name in ("assistant_model", "custom_generate"):
        if arguments.get(name) is not None:
            _refuse(name, type(arguments[name]).__name__, "leave it out")


def check_cache(cache: object) -> None:
    """Refuse a cache of the caller's that can neither be read nor brought up to date.

    Raises:
        UnsupportedGenerationError: names it.
    """
    if is_callers(cache) and not can_be_brought_up_to_date(cache):
        _refuse("past_key_values", type(cache).__name__, "give a DynamicCache that is not offloaded, or none")


def _refuse(setting: str, value: object, remedy: str) -> None:
    message = f"{setting}={value!r} cannot be combined with Lookahead; {remedy}, {_WITHOUT}"
    raise UnsupportedGenerationError(message)


def check_prompt(model: PreTrainedModel, input_ids: Tensor, embeddings: Tensor | None) -> None:
    """Refuse a prompt, tokens or embeddings, that the model has no positions for.

    Raises:
        PromptTooLongError: says how long it is and how long it may be.
    """
    context = DraftLimits.of(model).context  # dynamic RoPE has no end
    length = input_ids.shape[1] if embeddings is None else embeddings.shape[1]
    if context is not None and length > context:
        message = (
            f"the prompt has {length} tokens, {type(model).__name__}'s context is {context}; "
            "shorten the prompt"
        )
        raise PromptTooLongError(message)


def check_memory(model: PreTrainedModel, memory: DraftMemory) -> None:
    """Bind a fresh memory to the model's vocabulary; refuse one that holds tokens of another.

    Raises:
        VocabularyMismatchError: the memory has learned from a vocabulary of another size.
    """
    memory.bind(vocabulary_size=text_config(model).vocab_size)
