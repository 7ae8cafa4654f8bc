"""A way of generating, as a benchmark compares them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

Inputs = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Output:
    """The answers of a method.

    Attributes:
        sequences: int64 [B, L], prompts and answers.
        steps: Forward passes after prefill, of all rows, if the method counts them; else the pieces that were
            streamed are counted.
    """

    sequences: torch.Tensor
    steps: int | None = None


class Method(ABC):
    """A way of generating. Methods without a memory need only `generate`.

    Attributes:
        name: Its name in options and reports.
        batches: Whether it can answer several prompts in one call.
        variants: Settings to choose from: the fastest on a few prompts is measured under this method's name.
    """

    name: str
    batches: bool = True
    variants: Sequence["Method"] = ()

    @abstractmethod
    def generate(
        self,
        model: PreTrainedModel,
        inputs: Inputs,
        *,
        settings: Mapping[str, Any],
        streamer: BaseStreamer | None,
    ) -> Output:
        """Answer each prompt as `generate` does with these settings, and stream the answers."""

    def prepare(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:  # noqa: B027
        """Do what is done once per model, before anything is measured."""

    def remember(self, token_ids: Sequence[int]) -> None:  # noqa: B027
        """Learn a text, if the method has a memory that outlives prompts."""

    def recall(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> None:  # noqa: B027
        """Learn a request that an interrupted run of this method has answered."""

    def forget(self) -> None:  # noqa: B027
        """Empty the memory; what `prepare` did stays."""
