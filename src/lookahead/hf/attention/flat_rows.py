"""The attention of forward passes whose rows lie one after the other: the model's own, group by group."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lookahead.decoding.attention.flat_rows import FlatRows
from lookahead.hf.attention.grouped_query import attend_in_groups, with_repeated_rows
from lookahead.hf.compat.attention import attend_by, own_attention, own_mask
from lookahead.hf.compat.changes import TemporaryChanges
from lookahead.hf.compat.layout import AttentionLayout
from lookahead.hf.compat.traits import ModelTraits


@dataclass(frozen=True)
class _Seen:
    """What the nodes see in layers of one type: a mask of each group."""

    rows: FlatRows
    masks: Sequence[Tensor]


def unsupported_reason(traits: ModelTraits) -> str:
    """Return why rows cannot lie one after the other, in words; empty if that should be tried."""
    if traits.device.type != "cpu":
        return f"it is on {traits.device.type}, where the calls of more groups of rows were not measured"
    if not traits.uses_attention_interface:
        return "its attention is a part of its own code"
    if not traits.takes_positions or traits.bias:
        return "it reads positions off the slots of the cache"
    if not traits.is_library_code or traits.has_cross_attention:
        return "its code may count the cache's slots, or has layers that keep no text"
    if not traits.can_use_sdpa and not traits.takes_tree_masks:
        return f"its attention, {traits.attention}, takes no tree mask"
    return ""


def attend_to_flat_rows(model: PreTrainedModel, changes: TemporaryChanges, *, groups_queries: bool) -> None:
    """Let a model's layers attend to each row's own text until the changes are undone, with `rows_as_masks`.

    Forward passes of other threads, whose masks are usual ones, stay correct meanwhile.
    """
    if groups_queries:
        attend_by(model, "flat_rows_grouped", _grouped, changes)
    else:
        attend_by(model, "flat_rows", _own, changes, mask=own_mask(model))


def rows_as_masks(
    rows: FlatRows, layout: AttentionLayout, dtype: torch.dtype, device: torch.device, query_groups: int
) -> Tensor | dict[str, Tensor]:
    """Return a mask for each type of layers, or one if there is one type, that carries each group's mask.

    The tensor itself has two columns, which fit no cache: a layer that used it as a mask would raise.

    Args:
        rows: The rows.
        layout: How the model's layers see the past.
        dtype: The model's.
        device: The model's.
        query_groups: How often each mask is repeated for grouped queries.
    """
    masks = {}
    for name, window in layout.windows.items():
        of_groups = rows.masks(dtype, window, layout.chunks.get(name))
        repeated = [with_repeated_rows(mask.to(device), query_groups) for mask in of_groups]
        masks[name] = torch.zeros(1, 1, 1, 2, dtype=torch.bool, device=device)
        masks[name].seen_rows = _Seen(rows, repeated)  # type: ignore[attr-defined]
    return masks if len(masks) > 1 else next(iter(masks.values()))


def _grouped(module: torch.nn.Module, *given: Any, **named: Any) -> tuple[Tensor, Tensor | None]:
    return _attend(attend_in_groups, module, *given, **named)


def _own(module: torch.nn.Module, *given: Any, **named: Any) -> tuple[Tensor, Tensor | None]:
    return _attend(own_attention(module), module, *given, **named)


def _attend(
    function: Callable[..., tuple[Tensor, Tensor | None]],
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend by a function of the library's signature, group by group where the mask carries groups."""
    seen: _Seen | None = getattr(attention_mask, "seen_rows", None)
    if seen is None:  # the forward pass of another caller, in another thread
        return function(module, query, key, value, attention_mask, **kwargs)

    def attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        return function(module, queries, keys, values, mask, **kwargs)[0]

    return seen.rows.attend(attention, query, (key, value), seen.masks), None
