"""The attention of reproducible text: registered with the library, in use during a step's forward.

Where the fused step's attention can serve (`backends/cpu/layer_attention.py`) it does, else products of one
shape (`decoding/attention/branch_order.py`). Which of them is a matter of the model, never of a draft.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from lookahead.backends.cpu.layer_attention import attend_in_layer, team_for
from lookahead.backends.cpu.tables import TreeTables
from lookahead.decoding.attention.branch_order import OrderedPlaces, ordered_attention
from lookahead.decoding.attention.visibility import TreeRow
from lookahead.hf.attention.position_bias import PositionBias
from lookahead.hf.compat.traits import text_config

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


@dataclass(frozen=True)
class BranchPlaces:
    """Where the text of draft trees lies, in the form that either attention asks for.

    Attributes:
        rows: the trees, padded on the left.
        start: the slot of node 0 in all rows.
        size: nodes of a row in the forward.
        window: places that a token sees, itself included, or None for all.
        chunk: places that see one another and nothing else, or None for all.
        device: where the model computes.
    """

    rows: Sequence[TreeRow]
    start: int
    size: int
    device: torch.device
    window: int | None = None
    chunk: int | None = None

    @cached_property
    def tables(self) -> TreeTables:
        """For the fused step's attention, which knows no chunks."""
        return TreeTables.of(self.rows, start=self.start, size=self.size)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # nor compile anew for each tree
    def ordered(self) -> OrderedPlaces:
        """Return them for products of one shape."""
        return self._ordered

    @cached_property
    def _ordered(self) -> OrderedPlaces:
        past = {"window": self.window, "chunk": self.chunk}
        return OrderedPlaces.of(self.rows, start=self.start, size=self.size, **past).to(self.device)


def with_places(mask: Tensor, places: BranchPlaces) -> Tensor:
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
    places: BranchPlaces | None = getattr(attention_mask, "places", None)
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
    team = None if softcap is not None or places.chunk is not None else team_for(query, key, value)
    if team is not None:
        attended = attend_in_layer(
            query, key, value, places.tables, scaling=scale, window=places.window, team=team
        )
        return attended, None
    attended = ordered_attention(query, key, value, places.ordered(), scaling=scale, softcap=softcap)
    return attended.transpose(1, 2).contiguous(), None
