"""Lookahead in its variants: stores, draft modes, sizes, memories."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from lookahead.bench.methods.method import Output
from lookahead.config import LookaheadConfig
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.hf.lookahead import Lookahead


class LookaheadMethod:
    """Lookahead, with a memory of its own that starts empty and grows from prompt to prompt.

    Args:
        name: what it is called.
        config: settings.
        make_memory: makes an empty memory; the default one as large as the settings say if not given.
        knows_vocabulary: before it starts it learns what the model holds likely after each token.
    """

    batches = True

    def __init__(
        self,
        name: str,
        config: LookaheadConfig,
        *,
        make_memory: Callable[[], DraftMemory] | None = None,
        knows_vocabulary: bool = False,
    ) -> None:
        self.name = name
        self._knows_vocabulary = knows_vocabulary
        self._make_memory = make_memory or partial(DraftMemory, max_bytes=config.max_bytes)
        self._lookahead = Lookahead(config, memory=self._make_memory())

    def generate(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, torch.Tensor],
        *,
        settings: Mapping[str, Any],
        streamer: BaseStreamer | None,
    ) -> Output:
        """The answer with Lookahead, and its number of forwards."""
        arguments: dict[str, Any] = {**inputs, **settings}
        sequences = self._lookahead.generate(model, **arguments, streamer=streamer)
        return Output(sequences, steps=self._lookahead.last_stats.row_steps)

    def prepare(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Learn the vocabulary, where that is wanted."""
        if self._knows_vocabulary:
            self._lookahead.warm_vocabulary(model, tokenizer)

    def remember(self, token_ids: Sequence[int]) -> None:
        """Warm the memory with a text."""
        self._lookahead.memory.warm([list(token_ids)])

    def recall(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> None:  # noqa: ARG002
        """Remember an earlier answer; its prompt was forgotten when it ended."""
        self.remember(answer_ids)

    def forget(self) -> None:
        """Begin with an empty memory."""
        self._lookahead.memory = self._make_memory()


class PromptsToo(LookaheadMethod):
    """A Lookahead that keeps prompts as it keeps answers."""

    def recall(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> None:
        """Remember an earlier prompt and its answer."""
        self.remember([*prompt_ids, *answer_ids])
