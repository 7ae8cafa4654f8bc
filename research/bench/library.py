"""transformers' own methods that only the project's comparisons need: with a draft model, and compiled."""

import shutil
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from transformers import CompileConfig, PreTrainedModel, StaticCache
from transformers.generation.streamers import BaseStreamer

from lookahead.bench.methods.library import TransformersMethod
from lookahead.bench.methods.method import Inputs, Output
from lookahead.errors import MissingDependencyError

_COMPILERS = ("g++", "clang++", "c++")


class AssistedMethod(TransformersMethod):
    """The library's assisted generation: a small model drafts.

    Args:
        name: Its name.
        load: Loads the draft model. Called once, in the warm-up.
    """

    def __init__(self, name: str, load: Callable[[], PreTrainedModel]) -> None:
        super().__init__(name)
        self._load = load

    @cached_property
    def _assistant(self) -> PreTrainedModel:
        return self._load()

    def generate(
        self,
        model: PreTrainedModel,
        inputs: Inputs,
        *,
        settings: Mapping[str, Any],
        streamer: BaseStreamer | None,
    ) -> Output:
        """Answer with the help of the draft model."""
        settings = {"assistant_model": self._assistant, **settings}
        return super().generate(model, inputs, settings=settings, streamer=streamer)


class StaticCompiledMethod(TransformersMethod):
    """`generate` with a static cache and torch.compile: the library's fastest way without drafts.

    Args:
        name: Its name.

    Raises:
        MissingDependencyError: There is no C++ compiler, which torch.compile needs on the CPU.

    Attributes:
        cache_tokens: Tokens of the longest prompt and answer. If all caches have this size, the model is
            compiled once, in the warm-up.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.cache_tokens = 0
        if not torch.cuda.is_available() and not any(map(shutil.which, _COMPILERS)):
            message = (
                f"{name} needs a C++ compiler ({', '.join(_COMPILERS)}) for torch.compile; install one, or "
                "leave the method out"
            )
            raise MissingDependencyError(message)

    def generate(
        self,
        model: PreTrainedModel,
        inputs: Inputs,
        *,
        settings: Mapping[str, Any],
        streamer: BaseStreamer | None,
    ) -> Output:
        """Answer with a static cache, whose steps `generate` compiles."""
        needed_tokens = inputs["input_ids"].shape[1] + settings["max_new_tokens"]
        cache = StaticCache(model.config, max_cache_len=max(self.cache_tokens, needed_tokens))
        settings = {"past_key_values": cache, "compile_config": _compiled_on_any_device(), **settings}
        return super().generate(model, inputs, settings=settings, streamer=streamer)


def _compiled_on_any_device() -> CompileConfig:
    """Return settings by which `generate` compiles its steps on the CPU as well; its default is GPUs only."""
    config = CompileConfig(fullgraph=False, mode="default")
    untyped: Any = config
    untyped._compile_all_devices = True  # noqa: SLF001  # there is no public switch
    return config
