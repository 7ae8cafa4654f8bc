"""The attention that trees are verified with: SDPA, without repeating keys and values for grouped queries.

transformers looks a model's attention up by its name. For the duration of a tree's forward the model is given
another one, that of a function registered with the library; the prompt and plain steps stay with its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from lookahead.decoding.attention.grouped_query import grouped_query_tree_attention
from lookahead.decoding.attention.split_attention import SeenByAll, can_split, split_tree_attention
from lookahead.hf.compat.traits import text_config

_FOLDED_ATTENTION = "lookahead_folded"
"""Name under which the grouped-query tree attention is registered with the library."""

_FOLDED_FOR = {
    "sdpa": _FOLDED_ATTENTION,
    # These take no tree's mask (flex on the CPU crashes on it). The names tell what to restore, and avoid
    # "flash", by which the library knows models that want no mask.
    "flex_attention": f"{_FOLDED_ATTENTION}_for_flex",
    "flash_attention_2": f"{_FOLDED_ATTENTION}_for_fa2",
    "flash_attention_3": f"{_FOLDED_ATTENTION}_for_fa3",
    "flash_attention_4": f"{_FOLDED_ATTENTION}_for_fa4",
}
_NOT_FOLDED = ("position_bias", "softcap", "s_aux", "cache")
"""Arguments that change what attention is: with one of them the library's own function is asked."""
_OWN_NAMES = {folded: own for own, folded in _FOLDED_FOR.items()}


def attention_name(model: PreTrainedModel) -> str:
    """Return the name of the attention that the model uses when it verifies no tree just now."""
    name = str(text_config(model)._attn_implementation)  # noqa: SLF001
    return _OWN_NAMES.get(name, name)


def query_groups(model: PreTrainedModel) -> int:
    """Return how many query heads share a key head where trees are verified folded, else 1."""
    if not _can_fold(model):
        return 1
    config = text_config(model)
    heads = getattr(config, "num_attention_heads", 1)
    return max(1, heads // (getattr(config, "num_key_value_heads", None) or heads))


@contextmanager
def grouped_query_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within, a model verifies trees by SDPA, without repeating keys and values for grouped queries."""
    if not _can_fold(model):
        yield
        return
    own = attention_name(model)
    _register_folded_attention(_FOLDED_FOR[own])
    config = text_config(model)
    config._attn_implementation = _FOLDED_FOR[own]  # noqa: SLF001
    try:
        yield
    finally:
        # Where SDPA is the model's own, this is right for every thread: what is folded is so only in how it
        # is computed, not in what comes of it. Other models serve one thread at a time.
        config._attn_implementation = own  # noqa: SLF001


def _can_fold(model: PreTrainedModel) -> bool:
    """Return whether the model looks its attention function up by name, and SDPA can take its place."""
    looks_up = getattr(model, "_supports_attention_backend", False)
    name = attention_name(model)
    takes_sdpa = name == "sdpa" or (name in _FOLDED_FOR and getattr(model, "_supports_sdpa", False))
    return bool(looks_up) and bool(takes_sdpa)


def changes_attention(model: PreTrainedModel) -> bool:
    """Return whether a tree's forward has a model attend in another way than its own, beyond the name."""
    return attention_name(model) != "sdpa" and _can_fold(model)


def takes_tree_masks(model: PreTrainedModel, *, folded: bool) -> bool:
    """Return whether a tree's forward, folded or not, meets an attention that takes its mask."""
    name = attention_name(model)
    takes_masks = name == "sdpa" or not (name in _FOLDED_FOR or "flash" in name)
    return takes_masks or (folded and _can_fold(model))


def with_repeated_rows(mask: Tensor, groups: int) -> Tensor:
    """Return a mask [B, 1, T, S] that carries [B, 1, groups · T, S], repeated once for all layers.

    It is carried as an attribute, so that a layer that does not fold finds the mask as it expects it.
    """
    if groups > 1:
        mask.folded = mask.repeat(1, 1, groups, 1)  # type: ignore[attr-defined]
    return mask


def with_seen_by_all(mask: Tensor, seen: SeenByAll | None) -> Tensor:
    """Return a mask [B, 1, T, S] that carries which slots all nodes see, where there are such.

    It is carried as an attribute, too, and a layer that does not ask for it is right all the same.
    """
    if seen is not None:
        mask.seen_by_all = seen  # type: ignore[attr-defined]
    return mask


def _register_folded_attention(name: str) -> None:
    """Tell the library of the attention function, on first use: importing Lookahead changes nothing."""
    if name not in AttentionInterface():
        AttentionInterface.register(name, _folded_attention_forward)
        AttentionMaskInterface.register(name, sdpa_mask)


def _folded_attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    is_tree = query.shape[2] > 1 and attention_mask is not None and attention_mask.shape[1] == 1
    is_other = any(kwargs.get(name) is not None for name in _NOT_FOLDED)
    if attention_mask is None or not is_tree or dropout or is_other:
        attended, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return attended, None
    seen: SeenByAll | None = getattr(attention_mask, "seen_by_all", None)
    if seen is not None and can_split(query, key, value):
        attended = split_tree_attention(query, key, value, attention_mask, seen, scaling=scaling)
    else:
        folded: Tensor = getattr(attention_mask, "folded", attention_mask)
        attended = grouped_query_tree_attention(query, key, value, folded, scaling=scaling)
    return attended.transpose(1, 2).contiguous(), None
