"""The ways of generating that a benchmark compares: one protocol, one registry.

To add one: write a class with a `name`, `generate` and `forget`, and give it a line in `METHODS`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from lookahead.config import LookaheadConfig
from lookahead.drafting.memory import DraftMemory
from lookahead.errors import ConfigError
from lookahead.hf.lookahead import Lookahead

BASELINE = "transformers"
PROMPT_LOOKUP = "prompt-lookup"
LOOKAHEAD = "lookahead"
LOOKAHEAD_PLAIN = "lookahead-plain"
LOOKAHEAD_VOCABULARY = "lookahead-vocabulary"


@dataclass(frozen=True)
class Output:
    """What a method made of a prompt.

    Attributes:
        sequences: prompt and answer, [1, L].
        steps: forwards after prefill, where the method counts them itself; else the streamer's puts count.
    """

    sequences: torch.Tensor
    steps: int | None = None


class Method(Protocol):
    """A way of generating."""

    @property
    def name(self) -> str:
        """What it is called in options and reports."""

    def generate(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, torch.Tensor],
        *,
        settings: Mapping[str, Any],
        streamer: BaseStreamer,
    ) -> Output:
        """The answer to one prompt as `generate` gives it with these settings, streamed as it comes."""

    def prepare(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Do what is done once for a model, before anything is measured."""

    def remember(self, token_ids: Sequence[int]) -> None:
        """Learn from a text, where the method has a memory that outlives prompts."""

    def forget(self) -> None:
        """Forget all that earlier answers taught; what was set up for the model stays."""


@dataclass(frozen=True)
class TransformersMethod:
    """`model.generate` as it comes, with the library's own options, prompt lookup's for one."""

    name: str
    options: Mapping[str, Any]

    def generate(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, torch.Tensor],
        *,
        settings: Mapping[str, Any],
        streamer: BaseStreamer,
    ) -> Output:
        """The answer of `model.generate`."""
        sequences = model.generate(  # type: ignore[operator]  # the library's mixin hides its type
            **inputs, **self.options, **settings, streamer=streamer
        )
        return Output(sequences)

    def prepare(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """There is nothing to do."""

    def remember(self, token_ids: Sequence[int]) -> None:
        """Nothing outlives a prompt."""

    def forget(self) -> None:
        """Nothing was learned."""


class LookaheadMethod:
    """Lookahead, with a memory of its own that starts empty and grows from prompt to prompt.

    Args:
        name: what it is called.
        config: settings.
        knows_vocabulary: before it starts it learns what the model holds likely after each token.
    """

    def __init__(self, name: str, config: LookaheadConfig, *, knows_vocabulary: bool = False) -> None:
        self.name = name
        self._knows_vocabulary = knows_vocabulary
        self._config = config
        self._lookahead = Lookahead(config)

    def generate(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, torch.Tensor],
        *,
        settings: Mapping[str, Any],
        streamer: BaseStreamer,
    ) -> Output:
        """The answer with Lookahead, and its number of forwards."""
        arguments: dict[str, Any] = {**inputs, **settings}
        sequences = self._lookahead.generate(model, **arguments, streamer=streamer)
        return Output(sequences, steps=self._lookahead.last_stats.steps)

    def prepare(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Learn the vocabulary, where that is wanted."""
        if self._knows_vocabulary:
            self._lookahead.learn_vocabulary(model, tokenizer)

    def remember(self, token_ids: Sequence[int]) -> None:
        """Warm the memory with a text."""
        self._lookahead.memory.warm([list(token_ids)])

    def forget(self) -> None:
        """Begin with an empty memory."""
        self._lookahead.memory = DraftMemory(max_bytes=self._config.memory_bytes)


METHODS: dict[str, Callable[[LookaheadConfig], Method]] = {
    BASELINE: lambda _: TransformersMethod(BASELINE, {}),
    PROMPT_LOOKUP: lambda _: TransformersMethod(
        PROMPT_LOOKUP, {"prompt_lookup_num_tokens": 10, "max_matching_ngram_size": 3}
    ),
    LOOKAHEAD: lambda config: LookaheadMethod(LOOKAHEAD, config),
    LOOKAHEAD_PLAIN: lambda config: LookaheadMethod(LOOKAHEAD_PLAIN, replace(config, decoding_length=1)),
    LOOKAHEAD_VOCABULARY: lambda config: LookaheadMethod(LOOKAHEAD_VOCABULARY, config, knows_vocabulary=True),
}
USUAL = (BASELINE, PROMPT_LOOKUP, LOOKAHEAD, LOOKAHEAD_PLAIN)
_OF_FIXED_SIZE = re.compile(rf"{LOOKAHEAD}-([1-9]\d*)")
"""`lookahead-16` is Lookahead with drafts of a fixed size."""


def make_methods(names: Sequence[str], config: LookaheadConfig) -> list[Method]:
    """Fresh methods of these names, each once, `transformers` always among them and first.

    Args:
        names: keys of `METHODS`, or `lookahead-N` for drafts of N tokens; none means the USUAL ones.
        config: settings of the Lookahead methods.

    Raises:
        ConfigError: a name is unknown.
    """
    chosen = dict.fromkeys([BASELINE, *(names or USUAL)])
    return [_made(name, config) for name in chosen]


def _made(name: str, config: LookaheadConfig) -> Method:
    fixed = _OF_FIXED_SIZE.fullmatch(name)
    if fixed:
        return LookaheadMethod(name, replace(config, decoding_length=int(fixed[1])))
    if name not in METHODS:
        message = f"method {name!r} is unknown; choose from {', '.join(METHODS)} and {LOOKAHEAD}-N"
        raise ConfigError(message)
    return METHODS[name](config)
