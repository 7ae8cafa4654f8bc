"""Where drafts must end, read from a model's configuration; a small forward pass cannot show it."""

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from lookahead.hf.compat.config import context_length, is_library_code, rope_entries, text_config

_BY_LENGTH = re.compile(r"window|chunk|local_att|block_size|ntk|logn|index_topk|indexer|sparse_att")
"""Names of settings that may hide or weigh tokens by their distance or position."""

# Settings that are understood: masks, the limits here or `position_bias` handle them, or they are unrelated.
_UNDERSTOOD = frozenset(
    {
        "sliding_window",
        "use_sliding_window",
        "sliding_window_pattern",
        "_sliding_window_pattern",
        "prefix_dense_sliding_window_pattern",
        "max_window_layers",
        "attention_chunk_size",
        "local_attention",  # ModernBERT's decoder: its cache layers have the same window
        "keep_window_size",
        "chunk_size_feed_forward",
        "chunk_size_lm_head",
        "mamba_chunk_size",  # of layers that cannot branch anyway
        "use_dynamic_ntk",
        "use_logn_attn",
    }
)


@dataclass(frozen=True)
class DraftLimits:
    """How deep drafts may go, depending on where they begin.

    Attributes:
        context: Number of positions the model supports; None if its configuration does not say.
        rope_switch: Length at which the rotary frequencies change once (longrope).
        rope_growth: Length beyond which they change with every token (dynamic).
        slot_block: Slots per block with one query scale, if the model scales queries by slot (Llama 4).
        dense_until: Number of cached tokens up to which the model attends to all of them (Doge).
        counts_slots: Whether the model may use the cache's length as the position; code outside transformers
            often does.
    """

    context: int | None = None
    rope_switch: int | None = None
    rope_growth: int | None = None
    slot_block: int | None = None
    dense_until: int | None = None
    counts_slots: bool = False

    @property
    def counts_slots_somewhere(self) -> bool:
        """Whether the model depends on cache slots, so that rows of a batch must not differ in length."""
        return self.slot_block is not None or self.dense_until is not None or self.counts_slots

    @classmethod
    def of(cls, model: PreTrainedModel, kept: Sequence[int | None] = ()) -> "DraftLimits":
        """Return a model's limits.

        Args:
            model: A decoder-only model.
            kept: How many tokens each layer's cache would keep, for chains: beyond them the model itself
                would have to mask each token of a chain correctly, which is not known.
        """
        config = text_config(model)
        types = _rope_types(model)
        context = context_length(model)
        grows = "dynamic" in types or bool(getattr(config, "use_dynamic_ntk", False))
        is_tuned = bool(getattr(config, "attn_temperature_tuning", False))
        ends = (getattr(config, "keep_window_size", None), *kept)
        dense = [end for end in ends if end is not None]
        return cls(
            context=None if grows else context,
            rope_switch=rope_switches_at(model),
            rope_growth=context if grows else None,
            slot_block=int(getattr(config, "floor_scale", 1)) if is_tuned else None,
            dense_until=min(dense, default=None),
            counts_slots=not is_library_code(model),
        )

    def max_draft_depth(self, position: int, slot: int, nodes: int) -> int | None:
        """Return how deep a draft may go, or None for any depth.

        Args:
            position: Position of the draft's root.
            slot: Cache slot of the draft's root; padding counts.
            nodes: Maximum number of nodes of a draft.
        """
        ends = [end for end in (self.context, self.rope_growth) if end is not None]
        if self.rope_switch is not None and slot < self.rope_switch:
            ends.append(self.rope_switch - (slot - position))  # the cache restarts at this slot
        elif self.rope_switch is not None and position < self.rope_switch:
            ends.append(self.rope_switch)
        if self.slot_block is not None and (slot + 1) // self.slot_block != (slot + nodes) // self.slot_block:
            return 0
        if self.dense_until is not None and slot + nodes > self.dense_until:
            return 0
        if self.counts_slots and any(slot + nodes > end for end in ends):
            return 0
        return max(0, min(ends) - 1 - position) if ends else None


def rope_switches_at(model: PreTrainedModel) -> int | None:
    """Return the length at which a longrope model changes its frequencies and restarts its cache."""
    for entry in rope_entries(model):
        if _rope_type(entry) == "longrope":
            found = entry.get("original_max_position_embeddings")
            length: int | None = found or getattr(
                text_config(model), "original_max_position_embeddings", None
            )
            return length
    return None


def unknown_settings(model: PreTrainedModel, settled: AbstractSet[str] = frozenset()) -> list[str]:
    """Return the settings that may hide tokens by position and are not understood.

    Args:
        model: A decoder-only model.
        settled: Names of further settings that are understood.
    """
    understood = _UNDERSTOOD | settled
    return sorted(
        f"{name}={value!r}"
        for name, value in text_config(model).to_dict().items()
        if value and not isinstance(value, str) and _BY_LENGTH.search(name) and name not in understood
    )


def _rope_types(model: PreTrainedModel) -> set[str]:
    return {_rope_type(entry) for entry in rope_entries(model)}


def _rope_type(entry: dict[str, Any]) -> str:
    return str(entry.get("rope_type") or entry.get("type") or "")
