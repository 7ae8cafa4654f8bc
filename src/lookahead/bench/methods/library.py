"""transformers' own methods: `generate` with its options, with a draft model, and compiled."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel, StaticCache
from transformers.generation.streamers import BaseStreamer

from lookahead.bench.methods.method import Inputs, Method, Output
from lookahead.errors import MissingDependencyError
from lookahead.hf.compat.generation import compiled_on_any_device

_COMPILERS = ("g++", "clang++", "c++")


class TransformersMethod(Method):
    """`model.generate` with options of its own, such as prompt lookup's.

    Args:
        name: Its name.
        options: Keyword arguments of `generate`.
        batches: Whether the library serves batches with these options.
        variants: Settings to choose from.
    """

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any] | None = None,
        *,
        batches: bool = True,
        variants: Sequence[Method] = (),
    ) -> None:
        self.name = name
        self.batches = batches
        self.variants = variants
        self._options = options or {}

    def options(self, model: PreTrainedModel, needed_tokens: int) -> Mapping[str, Any]:  # noqa: ARG002
        """Return the keyword arguments for a call that ends with so many tokens, prompt included."""
        return self._options

    def generate(
        self,
        model: PreTrainedModel,
        inputs: Inputs,
        *,
        settings: Mapping[str, Any],
        streamer: BaseStreamer | None,
    ) -> Output:
        """Answer with `model.generate`."""
        untyped: Any = model  # the library's mixin hides its type
        needed_tokens = inputs["input_ids"].shape[1] + settings["max_new_tokens"]
        options = {**self.options(model, needed_tokens), **settings, "streamer": streamer}
        return Output(untyped.generate(**inputs, **options))


class AssistedMethod(TransformersMethod):
    """The library's assisted generation: a small model drafts.

    Args:
        name: Its name.
        load: Loads the draft model. Called once, in the warm-up.
    """

    def __init__(self, name: str, load: Callable[[], PreTrainedModel]) -> None:
        super().__init__(name, batches=False)
        self._load = load

    @cached_property
    def _assistant(self) -> PreTrainedModel:
        return self._load()

    def options(self, model: PreTrainedModel, needed_tokens: int) -> Mapping[str, Any]:  # noqa: ARG002
        """Return the draft model."""
        return {"assistant_model": self._assistant}


class StaticCompiledMethod(TransformersMethod):
    """`generate` with a static cache and torch.compile: the library's fastest way without drafts.

    All prompts have caches of the same size, so the model is compiled once, in the warm-up.

    Args:
        name: Its name.
        cache_tokens: Tokens of the longest prompt and answer.

    Raises:
        MissingDependencyError: There is no C++ compiler, which torch.compile needs on the CPU.
    """

    def __init__(self, name: str, cache_tokens: int) -> None:
        super().__init__(name, batches=False)
        self._cache_tokens = cache_tokens
        if not torch.cuda.is_available() and not any(map(shutil.which, _COMPILERS)):
            message = (
                f"{name} needs a C++ compiler ({', '.join(_COMPILERS)}) for torch.compile; install one, or "
                "leave the method out"
            )
            raise MissingDependencyError(message)

    def options(self, model: PreTrainedModel, needed_tokens: int) -> Mapping[str, Any]:
        """Return a static cache and what makes `generate` compile its steps."""
        cache = StaticCache(model.config, max_cache_len=max(self._cache_tokens, needed_tokens))
        return {"past_key_values": cache, "compile_config": compiled_on_any_device()}
