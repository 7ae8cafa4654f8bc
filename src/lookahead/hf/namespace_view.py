"""A `Lookahead` seen from one namespace."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedModel

from lookahead.hf.generate.attachment import Attachment


class Generates(Protocol):
    """What a view needs of the `Lookahead` it is one of."""

    def generate(
        self, model: PreTrainedModel, *args: Any, namespace: str, reads: Sequence[str], **kwargs: Any
    ) -> Any:
        """Call `model.generate` with Lookahead."""

    def attach(self, model: PreTrainedModel, *, namespace: str, reads: Sequence[str]) -> Attachment:
        """Turn Lookahead on for a model."""

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        *,
        namespace: str,
        reads: Sequence[str],
        **kwargs: Any,
    ) -> Any:
        """Decode as `generate` hands over."""


@dataclass(frozen=True)
class NamespaceView:
    """A `Lookahead` for the requests of one namespace; `custom_generate=` takes it as well.

    Attributes:
        lookahead: whose memory, settings and stats it uses.
        namespace: the one its answers belong to.
        reads: further namespaces to draft from.
    """

    lookahead: Generates
    namespace: str
    reads: tuple[str, ...] = ()

    def generate(self, model: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        """Call `Lookahead.generate` in this namespace."""
        return self.lookahead.generate(model, *args, namespace=self.namespace, reads=self.reads, **kwargs)

    def attach(self, model: PreTrainedModel) -> Attachment:
        """Call `Lookahead.attach` for this namespace."""
        return self.lookahead.attach(model, namespace=self.namespace, reads=self.reads)

    def __call__(self, model: PreTrainedModel, input_ids: Tensor, **kwargs: Any) -> Any:
        """Decode as `Lookahead` does, in this namespace."""
        return self.lookahead(model, input_ids, namespace=self.namespace, reads=self.reads, **kwargs)
