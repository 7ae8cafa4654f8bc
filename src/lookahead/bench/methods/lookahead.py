"""Lookahead in its variants: stores, draft modes, sizes, memories."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from lookahead.bench.methods.method import Inputs, Method, Output
from lookahead.config import LookaheadConfig
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.hf.lookahead import Lookahead


class LookaheadMethod(Method):
    """Lookahead, with a memory of its own that starts empty and grows from prompt to prompt.

    Args:
        name: Its name.
        config: Settings.
        make_memory: Makes an empty memory; by default one of the size in `config`.
        knows_vocabulary: Learn the model's likely successors of every token before anything is measured.
        is_fresh: Empty the memory before each call.
    """

    def __init__(
        self,
        name: str,
        config: LookaheadConfig,
        *,
        make_memory: Callable[[], DraftMemory] | None = None,
        knows_vocabulary: bool = False,
        is_fresh: bool = False,
    ) -> None:
        self.name = name
        self._knows_vocabulary = knows_vocabulary
        self._is_fresh = is_fresh
        self._make_memory = make_memory or partial(DraftMemory, max_bytes=config.max_bytes)
        self._lookahead = Lookahead(config, memory=self._make_memory())

    def generate(
        self,
        model: PreTrainedModel,
        inputs: Inputs,
        *,
        settings: Mapping[str, Any],
        streamer: BaseStreamer | None,
    ) -> Output:
        """Answer with Lookahead, and count the forward passes."""
        if self._is_fresh:
            self.forget()
        arguments: dict[str, Any] = {**inputs, **settings}
        sequences = self._lookahead.generate(model, **arguments, streamer=streamer)
        return Output(sequences, steps=self._lookahead.last_stats.row_steps)

    def prepare(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Learn the vocabulary, if asked to."""
        if self._knows_vocabulary:
            self._lookahead.warm_vocabulary(model, tokenizer)

    def remember(self, token_ids: Sequence[int]) -> None:
        """Learn a text."""
        self._lookahead.memory.warm([list(token_ids)])

    def recall(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> None:  # noqa: ARG002
        """Learn an earlier answer; its prompt was forgotten when it ended."""
        self.remember(answer_ids)

    def forget(self) -> None:
        """Start with an empty memory."""
        self._lookahead.memory = self._make_memory()
