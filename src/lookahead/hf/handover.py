"""What `generate` hands over to a generation mode, in one piece."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation.stopping_criteria import StopStringCriteria

from lookahead.drafting.store import check_namespaces
from lookahead.errors import ConfigError
from lookahead.hf.compat import text_config


@dataclass(frozen=True)
class Handover:
    """A call of `generate`, prepared by the library up to where a token would be chosen.

    Attributes:
        model: the model it was called on.
        input_ids: int64 [B, L], the prompts.
        logits_processor: all processors, the library's and the caller's.
        stopping_criteria: all criteria.
        generation_config: the settings.
        streamer: the caller's, or None.
        namespaces: the one that each row's answer belongs to.
        reads: further namespaces to draft from.
        model_kwargs: the model's own inputs, its cache among them.
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
    def prompts(self) -> list[list[int]]:
        """Each row's prompt, without padding and without what stands for pictures beyond the vocabulary."""
        mask = self.model_kwargs.get("attention_mask")
        seen = (self.input_ids >= 0) & (self.input_ids < text_config(self.model).vocab_size)
        if mask is not None and mask.shape == self.input_ids.shape:
            seen &= mask.to(self.input_ids.device) != 0
        return [row[of_row].tolist() for row, of_row in zip(self.input_ids, seen, strict=True)]


def namespaces_of_rows(namespace: str | Sequence[str], reads: Sequence[str], rows: int) -> tuple[str, ...]:
    """Return the namespace of each row: the one that is given, or each prompt's for its sequences.

    Args:
        namespace: one for all, or one for each prompt; `num_return_sequences` rows belong to a prompt.
        reads: further namespaces, which are checked as well.
        rows: sequences in the batch.

    Raises:
        ConfigError: a name is not allowed, or there are not as many as prompts.
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


def taken_stop_strings(kwargs: dict[str, Any]) -> list[StopStringCriteria]:
    """Take stop strings and their tokenizer out of a call's arguments, as a criterion of our own.

    The library would make the same one, but hands a custom callable's call no tokenizer to make it with.

    Raises:
        ValueError: there are stop strings and no tokenizer.
    """
    tokenizer = kwargs.pop("tokenizer", None)
    stop_strings = kwargs.pop("stop_strings", None)
    generation_config = kwargs.get("generation_config")
    if stop_strings is None and generation_config is not None and generation_config.stop_strings is not None:
        stop_strings = generation_config.stop_strings
        kwargs["generation_config"] = copy.deepcopy(generation_config)
        kwargs["generation_config"].stop_strings = None
    if stop_strings is None:
        return []
    if tokenizer is None:
        message = "stop_strings need the model's tokenizer: pass tokenizer=…"
        raise ValueError(message)
    return [StopStringCriteria(stop_strings=stop_strings, tokenizer=tokenizer)]
