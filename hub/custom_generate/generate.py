"""`model.generate(..., custom_generate=<this repository>, trust_remote_code=True)`: decode with Lookahead."""

from typing import Any
from weakref import WeakKeyDictionary

from transformers import PreTrainedModel

from lookahead import Lookahead

_BY_MODEL: WeakKeyDictionary[PreTrainedModel, Lookahead] = WeakKeyDictionary()
"""A `Lookahead` with its own draft memory for each model, as long as the model lives."""


def generate(model: PreTrainedModel, lookahead: Lookahead | None = None, **kwargs: Any) -> Any:
    """Return what `model.generate(**kwargs)` returns, in less time.

    Args:
        model: A decoder-only model.
        lookahead: Settings and draft memory to use; if None, one object is created per model and kept.
        **kwargs: For `model.generate`; also `namespace`, `reads` and `on_stats` of `Lookahead.generate`.

    Raises:
        LookaheadError: Lookahead cannot serve the model or the call; the message says why.
    """
    used = _BY_MODEL.setdefault(model, Lookahead()) if lookahead is None else lookahead
    return used.generate(model, **kwargs)
