"""Methods of transformers' own: `generate` as it comes, with its options, and compiled."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StaticCache
from transformers.generation.streamers import BaseStreamer

from lookahead.bench.methods.method import Output
from lookahead.errors import MissingDependencyError
from lookahead.hf.compat.generation import compiled_on_any_device

_COMPILERS = ("g++", "clang++", "c++")


class LibraryMethod:
    """What all of them share: nothing is learned from prompt to prompt.

    Attributes:
        batches: whether it can answer several prompts in one call.
    """

    batches = True

    def prepare(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """There is nothing to do."""

    def remember(self, token_ids: Sequence[int]) -> None:
        """Nothing outlives a prompt."""

    def recall(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> None:
        """Nothing outlives a prompt."""

    def forget(self) -> None:
        """Nothing was learned."""


@dataclass(frozen=True)
class TransformersMethod(LibraryMethod):
    """`model.generate` with the library's own options, prompt lookup's for one.

    Attributes:
        name: what it is called.
        options: for `generate`.
        batches: whether the library serves batches with them.
    """

    name: str
    options: Mapping[str, Any]
    batches: bool = True

    def generate(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, torch.Tensor],
        *,
        settings: Mapping[str, Any],
        streamer: BaseStreamer | None,
    ) -> Output:
        """The answer of `model.generate`."""
        return Output(_generate(model, inputs, {**self.options, **settings, "streamer": streamer}))


class AssistedMethod(LibraryMethod):
    """The library's assisted generation: a small model drafts.

    Args:
        name: what it is called.
        load: loads the draft model; called once, before anything is measured.
    """

    batches = False

    def __init__(self, name: str, load: Callable[[], PreTrainedModel]) -> None:
        self.name = name
        self._load = load

    @cached_property
    def _assistant(self) -> PreTrainedModel:
        return self._load()

    def generate(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, torch.Tensor],
        *,
        settings: Mapping[str, Any],
        streamer: BaseStreamer | None,
    ) -> Output:
        """The answer of `model.generate` with the draft model."""
        options = {**settings, "assistant_model": self._assistant, "streamer": streamer}
        return Output(_generate(model, inputs, options))


class StaticCompiledMethod(LibraryMethod):
    """`generate` with a static cache and torch.compile: the library's fastest way without drafts.

    All prompts have caches of one size, so that the model is compiled once, in the warm-up.

    Args:
        name: what it is called.
        cache_tokens: the longest prompt and answer.

    Raises:
        MissingDependencyError: there is no C++ compiler, which torch.compile needs on the CPU.
    """

    batches = False

    def __init__(self, name: str, cache_tokens: int) -> None:
        self.name = name
        self._cache_tokens = cache_tokens
        if not torch.cuda.is_available() and not any(map(shutil.which, _COMPILERS)):
            message = (
                f"{name} needs a C++ compiler ({', '.join(_COMPILERS)}) for torch.compile; install one, or "
                "leave the method out"
            )
            raise MissingDependencyError(message)

    def generate(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, torch.Tensor],
        *,
        settings: Mapping[str, Any],
        streamer: BaseStreamer | None,
    ) -> Output:
        """The answer of `model.generate`, its decoding steps compiled."""
        needed = inputs["input_ids"].shape[1] + settings["max_new_tokens"]
        cache = StaticCache(model.config, max_cache_len=max(self._cache_tokens, needed))
        options = {"past_key_values": cache, "compile_config": compiled_on_any_device()}
        return Output(_generate(model, inputs, {**options, **settings, "streamer": streamer}))


def _generate(
    model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], options: dict[str, Any]
) -> torch.Tensor:
    untyped: Any = model  # the library's mixin hides its type
    sequences: torch.Tensor = untyped.generate(**inputs, **options)
    return sequences
