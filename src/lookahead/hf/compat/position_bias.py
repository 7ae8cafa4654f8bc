"""Tree forward passes of models that derive positions from cache slots.

ALiBi models (BLOOM, MPT, older Falcons) add a bias for each key's slot; GPT-Neo hides keys by the distance of
slots. In a chain, slots and positions are the same. In a tree, a node's place is its index in its branch's
text: the prefix's slots, then the depth. So the model's own function builds the bias for a chain as deep as
the tree, and each node gets the values of its place. This holds for one forward pass, on one instance.

    prefix of 3 tokens, node 0 with two children:   slots   0 1 2 3 4 5
                                                    places  0 1 2 3 4 4
"""

from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lookahead.drafting.tree import DraftTree
from lookahead.hf.compat.changes import TemporaryChanges

_ALIBI = "build_alibi_tensor"
_MPT_ALIBI = "build_mpt_alibi_tensor"


@dataclass(frozen=True)
class _Places:
    """The places of the keys and queries of a tree's forward pass.

    Attributes:
        keys: int64 [S], each key's place.
        queries: int64 [n], each node's place.
        padding: int64 [1, P], 0 for padding of the prompt; None if there is none.
    """

    keys: Tensor
    queries: Tensor
    padding: Tensor | None

    @classmethod
    def of(cls, tree: DraftTree, prefix_length: int, padding: Tensor | None) -> "_Places":
        queries = torch.from_numpy(tree.depths.astype("int64")) + prefix_length
        return cls(torch.cat([torch.arange(prefix_length, device="cpu"), queries]), queries, padding)

    @property
    def length(self) -> int:
        """Length of the longest branch's text."""
        return int(self.queries.max()) + 1

    def chain_mask(self, device: torch.device) -> Tensor:
        """Return int64 [1, length]: 0 for padding, 1 for the other tokens of that text."""
        mask = torch.ones(1, self.length, dtype=torch.int64, device="cpu")
        if self.padding is not None:
            mask[:, : self.padding.shape[1]] = self.padding
        return mask.to(device)


class PositionBias:
    """A model's modules that derive positions from slots; most models have none."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._modules = [module for module in model.modules() if _kind_of(module)]

    def __bool__(self) -> bool:
        return bool(self._modules)

    def set_for(
        self, tree: DraftTree, prefix_length: int, padding: Tensor | None, changes: TemporaryChanges
    ) -> None:
        """Let a forward pass over this tree use places instead of slots, until the changes are undone.

        Args:
            tree: The tree of the forward pass.
            prefix_length: Tokens in the cache, padding included.
            padding: [1, P], the prompt's 2-D mask, or None.
            changes: Undo it.
        """
        if not self._modules:
            return
        places = _Places.of(tree, prefix_length, padding)
        for module in self._modules:
            if _kind_of(module) == "slot mask":
                changes.set_attribute(module, "bias", _slot_mask_by_places(module.bias, places))
            else:
                name, override = _override(module, places)
                changes.set_item(vars(module), name, override)


def _kind_of(module: torch.nn.Module) -> str:
    """Return which override a module needs; empty for none."""
    if callable(getattr(type(module), _ALIBI, None)) and _ALIBI not in vars(module):
        return _ALIBI
    if callable(getattr(type(module), _MPT_ALIBI, None)) and _MPT_ALIBI not in vars(module):
        return _MPT_ALIBI
    forward = type(module).forward
    if (
        getattr(module, "use_alibi", False)
        and isinstance(forward, FunctionType)
        and _ALIBI in forward.__code__.co_names
        and "forward" not in vars(module)  # else `forward` is wrapped, and the wrapper must keep working
    ):
        return "forward"
    mask = getattr(module, "bias", None)
    if getattr(module, "attention_type", None) == "local" and isinstance(mask, Tensor) and mask.ndim == 4:
        return "slot mask"
    return ""


def _override(module: torch.nn.Module, places: _Places) -> tuple[str, Any]:
    """Return the name of the instance's attribute to override, and its value."""
    kind = _kind_of(module)
    if kind == _MPT_ALIBI:
        return kind, _mpt_alibi_by_places(getattr(module, kind), places)
    if kind == _ALIBI:
        return kind, _alibi_by_places(getattr(module, kind), places)
    # Falcon's builder is a global function of its module: a copy of `forward` with other globals changes
    # neither the module nor other Falcons.
    forward: Any = type(module).forward
    names = {**forward.__globals__, _ALIBI: _alibi_by_places(forward.__globals__[_ALIBI], places)}
    copied = FunctionType(
        forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__
    )
    copied.__kwdefaults__ = forward.__kwdefaults__
    return "forward", MethodType(copied, module)


def _alibi_by_places(build: Any, places: _Places) -> Any:
    def built(attention_mask: Tensor, num_heads: int, dtype: torch.dtype) -> Tensor:
        """Return [heads, 1, S]; one bias serves all queries, since softmax ignores a constant per query."""
        bias: Tensor = build(places.chain_mask(attention_mask.device), num_heads, dtype)
        return bias[..., places.keys.to(bias.device)]

    return built


def _mpt_alibi_by_places(build: Any, places: _Places) -> Any:
    def built(num_heads: int, _sequence_length: int, alibi_bias_max: int = 8, device: Any = None) -> Tensor:
        """Return [heads, 1, S]."""
        bias: Tensor = build(num_heads, places.length, alibi_bias_max, device=device)
        return bias[..., places.keys.to(bias.device)]

    return built


def _slot_mask_by_places(mask: Any, places: _Places) -> Tensor:
    """Return a module's causal mask with rows and columns by place; the module uses the last n rows."""
    queries, keys = places.queries.to(mask.device), places.keys.to(mask.device)
    by_places: Tensor = mask.new_ones(1, 1, len(keys), len(keys))
    by_places[:, :, -len(queries) :] = mask[:, :, queries][..., keys]
    return by_places
