"""The attention of reproducible text: each node attends to its own branch, in the order of the text.

The compiled CPU decoder's attention (`backends/cpu/layer_attention.py`) computes it where it can, else
products of one shape (`decoding/attention/branch_order.py`). The choice depends on the model, not on drafts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from lookahead.backends.cpu.layer_attention import attend_in_layer, team_for
from lookahead.backends.cpu.tables import TreeTables
from lookahead.decoding.attention.branch_order import BranchOrderPlaces, ordered_attention
from lookahead.decoding.attention.visibility import TreeRow
from lookahead.hf.compat.attention import attend_by
from lookahead.hf.compat.changes import TemporaryChanges

_HARMLESS = frozenset({"is_causal", "position_ids", "sliding_window", "use_cache", "cache_position"})
"""Arguments of transformers' attention functions that the places make redundant."""


def attend_in_branch_order(model: PreTrainedModel, changes: TemporaryChanges) -> None:
    """Let a model's layers attend to the places that their masks carry, until the changes are undone."""
    attend_by(model, "branch_order", _forward, changes)


@dataclass(frozen=True)
class BranchPlaces:
    """Where the text of draft trees lies, in the form that each of the two attentions needs.

    Attributes:
        rows: The trees, padded on the left; row b of the forward pass is row b of the keys.
        size: Nodes of each row in the forward pass.
        device: Device of the model.
        window: Places that a token sees, itself included; None for all.
        chunk: Places of a chunk; None for no chunks.
    """

    rows: Sequence[TreeRow]
    size: int
    device: torch.device
    window: int | None = None
    chunk: int | None = None

    @cached_property
    def tables(self) -> TreeTables:
        """The tables for the compiled CPU decoder's attention, which knows no chunks."""
        return TreeTables.of(self.rows, size=self.size, windows=(self.window,))

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # else it compiles again for each tree
    def ordered(self) -> BranchOrderPlaces:
        """Return the places for products of one shape."""
        return self._ordered

    @cached_property
    def _ordered(self) -> BranchOrderPlaces:
        places = BranchOrderPlaces.of(self.rows, size=self.size, window=self.window, chunk=self.chunk)
        return places.to(self.device)


def with_places(mask: Tensor, places: BranchPlaces) -> Tensor:
    """Return a mask that carries places as an attribute, for the attention function."""
    mask.places = places  # type: ignore[attr-defined]
    return mask


def _forward(
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
    if places is None:  # the forward pass of another caller, in another thread
        attended, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return attended, None
    unknown = [name for name, given in kwargs.items() if given is not None and name not in _HARMLESS]
    if unknown or dropout:
        message = f"attention in branch order does not support {', '.join(unknown) or 'dropout'}"
        raise NotImplementedError(message)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    team = None if softcap is not None or places.chunk is not None else team_for(query, key, value)
    if team is not None:
        return attend_in_layer(query, key, value, places.tables, scaling=scale, team=team), None
    attended = ordered_attention(query, key, value, places.ordered(), scaling=scale, softcap=softcap)
    return attended.transpose(1, 2).contiguous(), None
