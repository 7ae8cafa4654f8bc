"""Models that read positions off the cache's slots: for a tree's forward they are told the places instead.

ALiBi models (BLOOM, MPT, Falcon's older ones) add a bias for each key's slot, GPT-Neo hides keys by their
slots' distance. In a chain slots and positions are the same. In a tree, a node's place is where it would
stand if its branch were the whole text: the prefix's slots, then the depth. So each bias is built for a chain
as deep as the tree, by the model's own builder, and then picked by places. It stays so for the duration of
one forward, on the one instance.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lookahead.drafting.tree import DraftTree

_ALIBI = "build_alibi_tensor"
_MPT_ALIBI = "build_mpt_alibi_tensor"


@dataclass(frozen=True)
class _Places:
    """Where the keys and queries of a tree's forward stand.

    Attributes:
        keys: int64 [S], each key's place.
        queries: int64 [n], each node's.
        padding: int64 [1, P], zeros where the prompt is padded; None where it is not.
    """

    keys: Tensor
    queries: Tensor
    padding: Tensor | None

    @classmethod
    def of(cls, tree: DraftTree, prefix_length: int, padding: Tensor | None) -> "_Places":
        queries = torch.from_numpy(tree.depths.astype("int64")) + prefix_length
        return cls(torch.cat([torch.arange(prefix_length), queries]), queries, padding)

    @property
    def length(self) -> int:
        """How long the longest branch's text is."""
        return int(self.queries.max()) + 1

    def chain_mask(self, device: torch.device) -> Tensor:
        """Return int64 [1, length]: which tokens of that text are no padding."""
        mask = torch.ones(1, self.length, dtype=torch.int64)
        if self.padding is not None:
            mask[:, : self.padding.shape[1]] = self.padding
        return mask.to(device)


class PositionBias:
    """What of a model reads positions off slots; most models have nothing of the kind."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._modules = [module for module in model.modules() if _kind_of(module)]

    def __bool__(self) -> bool:
        return bool(self._modules)

    @contextmanager
    def biased_for(self, tree: DraftTree, prefix_length: int, padding: Tensor | None) -> Iterator[None]:
        """Within, a forward pass of this tree behind so many tokens is biased by places.

        Args:
            tree: what the forward is given.
            prefix_length: tokens in the cache, padding included.
            padding: [1, P], the prompt's 2-D mask, or None.
        """
        if not self._modules:
            yield
            return
        places = _Places.of(tree, prefix_length, padding)
        with ExitStack() as overridden:
            for module in self._modules:
                if _kind_of(module) == "slot mask":
                    overridden.enter_context(_with_slot_mask_by_places(module, places))
                else:
                    name, override = _override(module, places)
                    vars(module)[name] = override
                    overridden.callback(vars(module).pop, name)
            yield


def _kind_of(module: torch.nn.Module) -> str:
    """Return what a module needs: a name of this file, or nothing."""
    if callable(getattr(type(module), _ALIBI, None)) and _ALIBI not in vars(module):
        return _ALIBI
    if callable(getattr(type(module), _MPT_ALIBI, None)) and _MPT_ALIBI not in vars(module):
        return _MPT_ALIBI
    forward = type(module).forward
    if (
        getattr(module, "use_alibi", False)
        and isinstance(forward, FunctionType)
        and _ALIBI in forward.__code__.co_names
        and "forward" not in vars(module)  # else something has wrapped it, which must go on working
    ):
        return "forward"
    mask = getattr(module, "bias", None)
    if getattr(module, "attention_type", None) == "local" and isinstance(mask, Tensor) and mask.ndim == 4:
        return "slot mask"
    return ""


def _override(module: torch.nn.Module, places: _Places) -> tuple[str, Any]:
    """Return the name of the instance's attribute to override, and what with."""
    kind = _kind_of(module)
    if kind == _MPT_ALIBI:
        return kind, _mpt_alibi_by_places(getattr(module, kind), places)
    if kind == _ALIBI:
        return kind, _alibi_by_places(getattr(module, kind), places)
    # Falcon's builder is a function of its file: a copy of `forward` that looks up another one under its name
    # touches neither the file nor other Falcons.
    forward: Any = type(module).forward
    names = {**forward.__globals__, _ALIBI: _alibi_by_places(forward.__globals__[_ALIBI], places)}
    copied = FunctionType(
        forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__
    )
    copied.__kwdefaults__ = forward.__kwdefaults__
    return "forward", MethodType(copied, module)


def _alibi_by_places(build: Any, places: _Places) -> Any:
    def built(attention_mask: Tensor, num_heads: int, dtype: torch.dtype) -> Tensor:
        """Return [heads, 1, S]; softmax does not mind that the bias is the same for all queries."""
        bias: Tensor = build(places.chain_mask(attention_mask.device), num_heads, dtype)
        return bias[..., places.keys.to(bias.device)]

    return built


def _mpt_alibi_by_places(build: Any, places: _Places) -> Any:
    def built(num_heads: int, _sequence_length: int, alibi_bias_max: int = 8, device: Any = None) -> Tensor:
        """Return [heads, 1, S]."""
        bias: Tensor = build(num_heads, places.length, alibi_bias_max, device=device)
        return bias[..., places.keys.to(bias.device)]

    return built


@contextmanager
def _with_slot_mask_by_places(module: Any, places: _Places) -> Iterator[None]:
    """Within, the module's causal mask, of which it takes the last n rows, has rows and columns by places."""
    mask = module.bias
    queries, keys = places.queries.to(mask.device), places.keys.to(mask.device)
    by_places = mask.new_ones(1, 1, len(keys), len(keys))
    by_places[:, :, -len(queries) :] = mask[:, :, queries][..., keys]
    module.bias = by_places
    try:
        yield
    finally:
        module.bias = mask
