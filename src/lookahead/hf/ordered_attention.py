"""The attention of reproducible text: registered with the library, in use during a step's forward."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from lookahead.decoding.ordered_attention import OrderedPlaces, ordered_attention
from lookahead.hf.compat import text_config
from lookahead.hf.position_bias import PositionBias

_NAME = "lookahead_ordered"
_HARMLESS = frozenset({"is_causal", "position_ids", "sliding_window", "use_cache", "cache_position"})
"""What layers tell their attention beside the usual, and the places say as well or better."""


def can_attend_in_order(model: PreTrainedModel) -> bool:
    """Return whether the model looks its attention function up by name, and reads no positions off slots."""
    return bool(getattr(model, "_supports_attention_backend", False)) and not PositionBias(model)


@contextmanager
def attending_in_order(model: PreTrainedModel) -> Iterator[None]:
    """Within, a model's layers attend to what the masks that they are given carry as places."""
    if _NAME not in AttentionInterface():
        AttentionInterface.register(_NAME, _ordered_attention_forward)
        AttentionMaskInterface.register(_NAME, sdpa_mask)
    config = text_config(model)
    own = config._attn_implementation  # noqa: SLF001
    config._attn_implementation = _NAME  # noqa: SLF001
    try:
        yield
    finally:
        config._attn_implementation = own  # noqa: SLF001


def with_places(mask: Tensor, places: OrderedPlaces) -> Tensor:
    """Return a mask that carries places as an attribute, where the attention function looks for them."""
    mask.places = places  # type: ignore[attr-defined]
    return mask


def _ordered_attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    places: OrderedPlaces | None = getattr(attention_mask, "places", None)
    if places is None:  # a forward of somebody else's in another thread
        attended, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return attended, None
    strange = [name for name, given in kwargs.items() if given is not None and name not in _HARMLESS]
    if strange or dropout:
        message = f"nobody here knows what {', '.join(strange) or 'dropout'} does to attention in order"
        raise NotImplementedError(message)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    attended = ordered_attention(query, key, value, places, scaling=scale, softcap=softcap)
    return attended.transpose(1, 2).contiguous(), None
