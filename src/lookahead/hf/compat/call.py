"""`GenerateCall`: a call of `generate`, prepared by transformers."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import Parameter, signature
from typing import Any

from torch import Tensor
from transformers import GenerationMixin, PrefixConstrainedLogitsProcessor, PreTrainedModel
from transformers.generation.stopping_criteria import StopStringCriteria

from lookahead.drafting.store import check_namespaces
from lookahead.errors import ConfigError
from lookahead.hf.compat.config import text_config

_HARMLESS_CALLBACKS = ("transformers.", "xgrammar.")


@dataclass(frozen=True)
class GenerateCall:
    """A call of `generate`, prepared by transformers up to its decoding loop.

    Attributes:
        model: The model it was called on.
        input_ids: int64 [B, L], the prompts.
        logits_processor: All processors, the library's and the caller's.
        stopping_criteria: All criteria.
        generation_config: The settings.
        streamer: The caller's, or None.
        namespaces: The namespace of each row's answer.
        reads: Further namespaces to draft from.
        model_kwargs: The model's inputs, including its cache.
    """

    model: PreTrainedModel
    input_ids: Tensor
    logits_processor: Any
    stopping_criteria: Any
    generation_config: Any
    streamer: Any
    namespaces: tuple[str, ...]
    reads: tuple[str, ...]
    model_kwargs: dict[str, Any]

    @property
    def max_slots(self) -> int:
        """Maximum number of cache slots per row for prompt and answer, padding included."""
        limit: int = self.stopping_criteria.max_length or self.generation_config.max_length
        positions: Tensor | None = self.model_kwargs.get("position_ids")
        read = self.input_ids.shape[1]  # 0 where the prompts are embeddings
        return limit - read + (read if positions is None else max(read, positions.shape[-1]))

    @property
    def runs_callers_code(self) -> bool:
        """Whether code of the caller's runs between steps: processors, criteria, a streamer.

        Those of transformers and of xgrammar do not change the model.
        """
        parts = [*self.logits_processor, *self.stopping_criteria]
        parts += [] if self.streamer is None else [self.streamer]
        are_known = all(type(part).__module__.startswith(_HARMLESS_CALLBACKS) for part in parts)
        return not are_known or any(isinstance(part, PrefixConstrainedLogitsProcessor) for part in parts)

    @cached_property
    def prompts(self) -> list[list[int]]:
        """Each row's prompt, without padding and without image placeholders outside the vocabulary."""
        mask = self.model_kwargs.get("attention_mask")
        seen = (self.input_ids >= 0) & (self.input_ids < text_config(self.model).vocab_size)
        if mask is not None and mask.shape == self.input_ids.shape:
            seen &= mask.to(self.input_ids.device) != 0
        return [row[of_row].tolist() for row, of_row in zip(self.input_ids, seen, strict=True)]


def namespaces_of_rows(namespace: str | Sequence[str], reads: Sequence[str], rows: int) -> tuple[str, ...]:
    """Return the namespace of each row.

    Args:
        namespace: One for all rows, or one per prompt; each prompt has `num_return_sequences` rows.
        reads: Further namespaces, which are checked as well.
        rows: Sequences in the batch.

    Raises:
        ConfigError: A name is not allowed, or the number of names does not match the prompts.
    """
    names = [namespace] if isinstance(namespace, str) else list(namespace)
    for name in names:
        check_namespaces(name, reads)
    if not names or rows % len(names):
        message = (
            f"namespace={namespace!r} has {len(names)} names for {rows} sequences; "
            "give one name, or one for each prompt"
        )
        raise ConfigError(message)
    return tuple(name for name in names for _ in range(rows // len(names)))


def named_arguments(model: PreTrainedModel, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return a call's arguments by their names in the signature of `generate`.

    Raises:
        TypeError: There are more arguments than `generate` takes.
    """
    generate = getattr(type(model), "generate", GenerationMixin.generate)  # a compiled wrapper has none
    own = list(signature(generate).parameters.values())[1:]
    if any(parameter.kind is Parameter.VAR_POSITIONAL for parameter in own):  # an adapter's wrapper
        own = list(signature(GenerationMixin.generate).parameters.values())[1:]
    names = [parameter.name for parameter in own if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD]
    if len(args) > len(names) or any(name in kwargs for name in names[: len(args)]):
        message = f"generate() got {len(args)} positional arguments, some of them twice or too many"
        raise TypeError(message)
    return {**dict(zip(names, args, strict=False)), **kwargs}


def pop_stop_strings(model: PreTrainedModel, arguments: dict[str, Any]) -> list[StopStringCriteria]:
    """Remove stop strings and tokenizer from a call's arguments; return them as a stopping criterion.

    Transformers would create the same criterion, but gives a custom callable no tokenizer for it.

    Args:
        model: The model; its generation settings may have stop strings, too.
        arguments: The arguments by name; changed in place.

    Raises:
        ValueError: There are stop strings but no tokenizer.
    """
    tokenizer = arguments.pop("tokenizer", None)
    given = arguments.get("generation_config")
    stop_strings = arguments.get("stop_strings")
    for config in (given, getattr(model, "generation_config", None)):
        if stop_strings is None:  # `generate` refuses what is not a configuration
            stop_strings = getattr(config, "stop_strings", None)
    if stop_strings is None:
        return []
    if tokenizer is None:
        message = "stop_strings need the model's tokenizer: pass tokenizer=…"
        raise ValueError(message)
    if getattr(given, "stop_strings", None) is not None:
        arguments["generation_config"] = copy.deepcopy(given)
        arguments["generation_config"].stop_strings = None
    arguments["stop_strings"] = None
    return [StopStringCriteria(stop_strings=stop_strings, tokenizer=tokenizer)]
