"""transformers' own methods: `generate` with its options."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from lookahead.bench.methods.method import Inputs, Method, Output


class TransformersMethod(Method):
    """`model.generate` with options of its own, such as prompt lookup's.

    Args:
        name: Its name.
        options: Keyword arguments of `generate`.
    """

    def __init__(self, name: str, options: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self._options = options or {}

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
        return Output(untyped.generate(**{**inputs, **self._options, **settings}, streamer=streamer))
