"""What a benchmark compares: a way of generating, as a protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer


@dataclass(frozen=True)
class Output:
    """What a method made of its prompts.

    Attributes:
        sequences: prompts and answers, [B, L].
        steps: forwards after prefill, of all rows, where the method counts them itself; else the streamer's
            puts count.
    """

    sequences: torch.Tensor
    steps: int | None = None


class Method(Protocol):
    """A way of generating."""

    @property
    def name(self) -> str:
        """What it is called in options and reports."""

    @property
    def batches(self) -> bool:
        """Whether it can answer several prompts in one call."""

    def generate(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, torch.Tensor],
        *,
        settings: Mapping[str, Any],
        streamer: BaseStreamer | None,
    ) -> Output:
        """The answer to each prompt as `generate` gives it with these settings, streamed as it comes."""

    def prepare(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Do what is done once for a model, before anything is measured."""

    def remember(self, token_ids: Sequence[int]) -> None:
        """Learn from a text, where the method has a memory that outlives prompts."""

    def recall(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> None:
        """Take in a request that this method has answered before, as an interrupted run recorded it."""

    def forget(self) -> None:
        """Forget all that earlier answers taught; what was set up for the model stays."""
