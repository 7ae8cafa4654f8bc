"""The one registry of attention functions: which one a model uses, and switching it to one of ours.

transformers looks a model's attention function up by its name, in the model's configuration. For the duration
of a forward pass a model is given another name, under which a function of ours is registered. Our names say
which name to restore, and avoid "flash": from that the library concludes that a model wants no mask.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lookahead.hf.compat.changes import TemporaryChanges
from lookahead.hf.compat.config import text_config

_PREFIX = "lookahead_"
_SEPARATOR = "_for_"
_ALIASES = {"flash_attention_2": "fa2", "flash_attention_3": "fa3", "flash_attention_4": "fa4"}
_REPLACED_BY_SDPA = ("flex_attention", *_ALIASES)
"""Attention functions that take no tree mask (flex attention on the CPU crashes on it)."""


def attention_name(model: PreTrainedModel) -> str:
    """Return the name of the model's own attention function, also while it is switched to one of ours."""
    return attention_name_in(text_config(model))


def attention_name_in(config: PreTrainedConfig) -> str:
    """Return the name of the own attention function of the model with this decoder's configuration."""
    name = str(config._attn_implementation)
    if not name.startswith(_PREFIX):
        return name
    alias = name.partition(_SEPARATOR)[2]
    return next((own for own, known in _ALIASES.items() if known == alias), alias)


def uses_attention_interface(model: PreTrainedModel) -> bool:
    """Return whether the model looks its attention function up by name."""
    return bool(getattr(model, "_supports_attention_backend", False))


def can_use_sdpa(model: PreTrainedModel) -> bool:
    """Return whether SDPA, called by a function of ours, can stand in for the model's own attention."""
    name = attention_name(model)
    is_replaceable = name in _REPLACED_BY_SDPA and getattr(model, "_supports_sdpa", False)
    return uses_attention_interface(model) and bool(name == "sdpa" or is_replaceable)


def takes_tree_masks(model: PreTrainedModel) -> bool:
    """Return whether the model's own attention function takes a tree mask."""
    name = attention_name(model)
    return name == "sdpa" or not (name in _REPLACED_BY_SDPA or "flash" in name)


def attend_by(
    model: PreTrainedModel,
    kind: str,
    function: Callable[..., Any],
    changes: TemporaryChanges,
    *,
    mask: Callable[..., Any] = sdpa_mask,
) -> None:
    """Let the model's layers attend by a function, registered with transformers on first use.

    Args:
        model: One that `uses_attention_interface`.
        kind: A name for the function, different for each function.
        function: With the signature of the library's attention functions.
        changes: Undo it.
        mask: Makes the masks of forward passes that are given none.
    """
    own = attention_name(model)
    name = f"{_PREFIX}{kind}{_SEPARATOR}{_ALIASES.get(own, own)}"
    if name not in AttentionInterface():
        AttentionMaskInterface.register(name, mask)
        AttentionInterface.register(name, function)
    config = text_config(model)
    changes.undo_by(lambda: setattr(config, "_attn_implementation", own))
    config._attn_implementation = name


def own_mask(model: PreTrainedModel) -> Callable[..., Any]:
    """Return what makes the masks of the model's own attention function."""
    made: Callable[..., Any] = ALL_MASK_ATTENTION_FUNCTIONS[attention_name(model)]
    return made


def own_attention(module: torch.nn.Module) -> Callable[..., Any]:
    """Return the own attention function of a layer, also while its model is switched to one of ours.

    Raises:
        AttributeError: The module that defines the layer does not look attention functions up.
    """
    code, config = sys.modules[type(module).__module__], module.config
    assert isinstance(config, PreTrainedConfig)  # noqa: S101  # layers look their function up in it
    found: Callable[..., Any] = code.ALL_ATTENTION_FUNCTIONS.get_interface(
        attention_name_in(config), code.eager_attention_forward
    )
    return found


def attention_entries(model: PreTrainedModel) -> list[tuple[str, Any, tuple[str, ...]]]:
    """Return the registries that a model's attention and mask functions are looked up in.

    Returns:
        For each its name, the mapping, and the names of the entries that the model uses.
    """
    names = (attention_name(model),)
    return [
        (type(registry).__name__, mapping, names)
        for registry in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS)
        for mapping in (registry._local_mapping, type(registry)._global_mapping)
    ]
