"""`ServedModel`: what the server knows of the model besides the engine."""

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model under the name that clients use.

    Attributes:
        name: The name.
        tokenizer: Its tokenizer, of transformers.
        vocabulary_size: How many logits it has.
        context: The most tokens of prompt and answer.
        end_tokens: The tokens that end its answers.
        defaults: Sampling settings of its generation config, by the names of bodies' fields.
        created: When it was loaded, in seconds since 1970.
    """

    name: str
    tokenizer: Any
    vocabulary_size: int
    context: int
    end_tokens: tuple[int, ...]
    defaults: dict[str, float | int] = field(default_factory=dict)
    created: int = field(default_factory=lambda: int(time.time()))


_SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def served_model(name: str, model: Any, tokenizer: Any, context: int) -> ServedModel:
    """Return what a server needs to know of a transformers model."""
    generation = model.generation_config
    ends = generation.eos_token_id
    given = {name: getattr(generation, name, None) for name in _SAMPLING_FIELDS}
    defaults = {name: value for name, value in given.items() if value is not None}
    if not generation.do_sample:
        defaults["temperature"] = 0.0
    return ServedModel(
        name=name,
        tokenizer=tokenizer,
        vocabulary_size=model.config.get_text_config().vocab_size,
        context=context,
        end_tokens=tuple(ends) if isinstance(ends, list | tuple) else () if ends is None else (int(ends),),
        defaults=defaults,
    )
