"""Checks that refuse unsupported models and calls before anything is generated or learned."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.generation.configuration_utils import GenerationMode

from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.drafting.store import check_namespaces
from lookahead.errors import (
    ConfigError,
    PromptTooLongError,
    UnsupportedGenerationError,
    UnsupportedModelError,
)
from lookahead.hf.cache.callers_cache import can_be_brought_up_to_date, is_callers_cache, layout_behind
from lookahead.hf.compat.call import GenerateCall
from lookahead.hf.compat.config import own_sampling_loop, text_config, waits_for_other_ranks
from lookahead.hf.compat.layout import AttentionLayout, cache_of, tokens_in
from lookahead.hf.compat.limits import DraftLimits, rope_switches_at

SERVED_MODES = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)
"""The modes of the one-token loop of transformers."""

_WITHOUT = "or call model.generate without Lookahead"
_PROMPT_AXES = 2


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
    check_mask(generate_call)
    return layout_behind(model, cache)


def check_model(model: PreTrainedModel) -> None:
    """Check that a model is decoder-only and uses the decoding loop of transformers.

    Raises:
        UnsupportedModelError: It has no `generate`, is an encoder-decoder, has a sampling loop of its own, or
            waits for other processes in each step.
    """
    check_can_generate(model)
    if getattr(model.config, "is_encoder_decoder", False):
        message = (
            f"{type(model).__name__} is an encoder-decoder; Lookahead supports decoder-only models: "
            f"choose one, {_WITHOUT}"
        )
        raise UnsupportedModelError(message)
    loop = own_sampling_loop(model)
    if loop:
        message = (
            f"{type(model).__name__} decodes in a loop of its own ({loop}), which Lookahead does not "
            f"support: choose another model, restore the library's if it was replaced, {_WITHOUT}"
        )
        raise UnsupportedModelError(message)
    if waits_for_other_ranks(model):
        message = (
            f"processes that share the weights of {type(model).__name__} must run in lockstep, which "
            f"Lookahead does not support: give each process the whole model, {_WITHOUT}"
        )
        raise UnsupportedModelError(message)


def check_can_generate(model: object) -> None:
    """Check that a model is one that transformers generates with.

    Raises:
        UnsupportedModelError: It is not; the message says what to give.
    """
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        message = f"model={model!r:.80} is not a model of transformers; give what from_pretrained returned"
        raise UnsupportedModelError(message)
    if not hasattr(model, "generate"):
        message = (
            f"{type(model).__name__} has no generate; give a model with a language head, such as "
            "AutoModelForCausalLM.from_pretrained(…)"
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
    """Check that no argument of `generate` selects another decoding loop, and that the prompts are a tensor.

    Raises:
        UnsupportedGenerationError: One does, or they are not; the message names it.
    """
    for name in ("assistant_model", "custom_generate"):
        if arguments.get(name) is not None:
            _refuse(name, type(arguments[name]).__name__, "leave it out")
    if arguments.get("synced_gpus"):
        _refuse("synced_gpus", arguments["synced_gpus"], "leave it out")
    for name in ("inputs", "input_ids"):
        prompts = arguments.get(name)
        if isinstance(prompts, Tensor) and prompts.ndim < _PROMPT_AXES:
            _refuse_prompt(f"{name} is a tensor of shape {list(prompts.shape)}")
        if isinstance(prompts, Collection) and not isinstance(prompts, Tensor):
            _refuse_prompt(f"{name} is a {type(prompts).__name__}")


def check_options(namespace: object, reads: object, on_stats: object, on_progress: object = None) -> None:
    """Check Lookahead's own arguments of a call.

    Raises:
        ConfigError: One is not allowed; the message says what is.
    """
    names = [namespace] if isinstance(namespace, str) else namespace
    if isinstance(names, bytes) or not isinstance(names, Collection) or len(names) == 0:
        message = f"namespace={namespace!r:.80} is not allowed; give a string, or one for each prompt"
        raise ConfigError(message)
    if isinstance(reads, bytes) or not isinstance(reads, Collection):  # an iterator could be read only once
        message = f"reads={reads!r:.80} is not allowed; give a sequence of names"
        raise ConfigError(message)
    for name in names:
        check_namespaces(name, reads)  # type: ignore[arg-type]
    if on_stats is not None and not callable(on_stats):
        message = f"on_stats={on_stats!r:.80} is not allowed; give a function that takes a GenerationStats"
        raise ConfigError(message)
    if on_progress is not None and not callable(on_progress):
        message = f"on_progress={on_progress!r:.80} is not allowed; give a function that takes two numbers"
        raise ConfigError(message)


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


def _refuse_prompt(found: str) -> None:
    message = (
        f"{found}; give a tensor [prompts, tokens] of at least one prompt and one token, as a tokenizer "
        'returns it with return_tensors="pt": generate(**inputs)'
    )
    raise UnsupportedGenerationError(message)


def check_prompt(model: PreTrainedModel, input_ids: Tensor, embeddings: Tensor | None) -> None:
    """Check that there are prompts, token ids or embeddings, and that they fit the model's context.

    Raises:
        UnsupportedGenerationError: They are empty, or not [prompts, tokens].
        PromptTooLongError: They do not fit; the message gives both lengths.
    """
    shape = (input_ids if embeddings is None else embeddings).shape
    if input_ids.ndim != _PROMPT_AXES or 0 in shape[:_PROMPT_AXES]:
        _refuse_prompt(f"the prompt is a tensor of shape {list(shape)}")
    context = DraftLimits.of(model).context  # None with dynamic RoPE, which has no limit
    length = input_ids.shape[1] if embeddings is None else embeddings.shape[1]
    if context is not None and length > context:
        message = (
            f"the prompt has {length} tokens, {type(model).__name__}'s context is {context}; "
            f"give a prompt of at most {context} tokens"
        )
        raise PromptTooLongError(message)


def check_mask(generate_call: GenerateCall) -> None:
    """Check that attention mask and positions fit the prompts: what `generate` does with others is chance.

    Raises:
        UnsupportedGenerationError: They do not; the message gives their shape and that of the prompts.
    """
    model_kwargs = generate_call.model_kwargs
    embeddings = model_kwargs.get("inputs_embeds")
    rows, length = (generate_call.input_ids if embeddings is None else embeddings).shape[:2]
    lengths = (
        length,
        length + tokens_in(cache_of(model_kwargs)),
    )  # the prompt may leave out what a cache holds
    mask, positions = model_kwargs.get("attention_mask"), model_kwargs.get("position_ids")
    if mask is not None and not (
        mask.ndim == _PROMPT_AXES and len(mask) == rows and mask.shape[1] in lengths
    ):
        remedy = f"give a mask of shape {[rows, lengths[-1]]}"
        _refuse("attention_mask", f"a tensor of shape {list(mask.shape)}", remedy)
    if positions is not None and (
        0 in positions.shape or (positions.ndim == _PROMPT_AXES and positions.shape[0] not in (1, rows))
    ):
        remedy = f"give positions of shape {[rows, lengths[-1]]}"
        _refuse("position_ids", f"a tensor of shape {list(positions.shape)}", remedy)


def check_memory(model: PreTrainedModel, memory: DraftMemory) -> None:
    """Bind a fresh memory to the model's vocabulary size.

    Raises:
        VocabularyMismatchError: The memory holds tokens of a vocabulary of another size.
    """
    memory.bind(vocabulary_size=text_config(model).vocab_size)
