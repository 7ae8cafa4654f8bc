"""`model.generate(..., custom_generate=<this repository>, trust_remote_code=True)`: decode with Lookahead."""

from typing import Any
from weakref import WeakKeyDictionary

from transformers import PreTrainedModel

from lookahead import Lookahead

_BY_MODEL: WeakKeyDictionary[PreTrainedModel, Lookahead] = WeakKeyDictionary()
"""A draft memory for each model, which lives as long as the model does."""


def generate(model: PreTrainedModel, lookahead: Lookahead | None = None, **kwargs: Any) -> Any:
    """Return what `model.generate(**kwargs)` returns, sooner.

    Args:
        model: a decoder-only model.
        lookahead: settings and memory of the caller's own; else one is made for the model and kept.
        **kwargs: for `model.generate`; `namespace` and `reads` as `Lookahead.generate` takes them.

    Raises:
        LookaheadError: the model or the call is one that Lookahead cannot serve; the message says why.
    """
    used = _BY_MODEL.setdefault(model, Lookahead()) if lookahead is None else lookahead
    return used.generate(model, **kwargs)
