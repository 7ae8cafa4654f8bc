"""A method at its best of several settings, found on a few prompts before the measuring."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from lookahead.bench.methods.method import Method, Output
from lookahead.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How a method's setting was chosen.

    Attributes:
        chosen: the fastest setting.
        seconds: by setting, for all trial prompts together.
        prompts: how many they were.
    """

    chosen: str
    seconds: dict[str, float]
    prompts: int

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        rounded = {name: round(seconds, 4) for name, seconds in self.seconds.items()}
        return {**asdict(self), "seconds": rounded}


class BestOf:
    """One of several settings of a method: the one that `choose` says, the first until then.

    Args:
        name: what it is called, whichever is chosen.
        settings: the method in each setting.
    """

    def __init__(self, name: str, settings: Sequence[Method]) -> None:
        self.name = name
        self.settings = {method.name: method for method in settings}
        self._chosen = settings[0]

    def choose(self, setting: str) -> None:
        """Use this setting from now on.

        Raises:
            ConfigError: it is none of them.
        """
        if setting not in self.settings:
            message = f"{self.name} has no setting {setting!r}; choose from {', '.join(self.settings)}"
            raise ConfigError(message)
        self._chosen = self.settings[setting]

    @property
    def batches(self) -> bool:
        """Whether the chosen setting serves batches."""
        return self._chosen.batches

    def generate(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, torch.Tensor],
        *,
        settings: Mapping[str, Any],
        streamer: BaseStreamer | None,
    ) -> Output:
        """The answer in the chosen setting."""
        return self._chosen.generate(model, inputs, settings=settings, streamer=streamer)

    def prepare(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Prepare the chosen setting."""
        self._chosen.prepare(model, tokenizer)

    def remember(self, token_ids: Sequence[int]) -> None:
        """Teach the chosen setting."""
        self._chosen.remember(token_ids)

    def recall(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> None:
        """Teach the chosen setting."""
        self._chosen.recall(prompt_ids, answer_ids)

    def forget(self) -> None:
        """Have the chosen setting forget."""
        self._chosen.forget()
