"""The places where the code of a model's forward pass is looked up, besides the model itself.

Classes, the globals of the modules that define them, the functions of torch that they name, and the registry
of attention functions.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lookahead.hf.compat.attention import attention_entries
from lookahead.hf.compat.fingerprint.library_code import comes_from_libraries, innermost
from lookahead.hf.compat.modifications import is_observed, modules_of

_CALLS = ("__call__", "_call_impl", "_wrapped_call_impl", "_slow_forward", "__getattr__", "__getattribute__")
_PREPARATION = ("prepare_inputs_for_generation", "_update_model_kwargs_for_generation", "_prefill")
CALL_PATH = ("forward", *_CALLS, *_PREPARATION)
"""Methods that a forward pass of `generate` goes through."""
_OPERATORS = {
    *("__add__", "__radd__", "__mul__", "__rmul__", "__sub__", "__rsub__"),
    *("__neg__", "__matmul__", "__truediv__", "__getitem__", "__torch_function__"),
}
_OWN_ENTRIES = ("sdpa", "eager")
"""Entries of the registries of attention functions that are always the library's own."""
_SMALL_CLASS = 40
"""Classes with fewer attributes are watched as a whole, since an attribute may hide one of a module."""
_LIBRARIES = ("torch.", "transformers.")
_MODELING = ("transformers.models.", "transformers.modeling_layers", "transformers.activations")
_HELPERS = {"transformers.masking_utils", "transformers.integrations.sdpa_attention"}
_NAMESPACES: tuple[tuple[str, Any], ...] = (
    ("torch.nn.functional", torch.nn.functional),
    ("torch", torch),
    ("torch.Tensor", torch.Tensor),
    ("torch._C._nn", torch._C._nn),
)


@dataclass(frozen=True)
class Place:
    """A mapping in which code is looked up.

    Attributes:
        name: For messages.
        mapping: From names to objects.
        names: The names that matter; None for all.
        owner: The class whose attributes these are, if it is one.
        is_registry: Whether these are entries of a registry of attention or mask functions.
    """

    name: str
    mapping: Mapping[str, Any]
    names: tuple[str, ...] | None = None
    owner: type | None = None
    is_registry: bool = False

    def values(self) -> tuple[object, ...]:
        """Return the objects that the names stand for now."""
        if self.names is None:
            return tuple(self.mapping.values())
        return tuple(map(self.mapping.get, self.names))

    def items(self) -> Iterator[tuple[str, object]]:
        """Yield the names that are there, with their objects."""
        for name in self.mapping if self.names is None else self.names:
            if name in self.mapping:
                yield name, self.mapping[name]


def library_places(model: PreTrainedModel) -> list[Place]:
    """Return the places of torch and transformers that a model's forward passes look up code in."""
    return [*_places_of(frozenset(map(type, modules_of(model)))), *_attention_places(model)]


def functions_at(places: list[Place]) -> list[FunctionType]:
    """Return the functions at these places, whose code may be replaced, too."""
    return [value for place in places for value in place.values() if isinstance(value, FunctionType)]


def replaced_code(model: PreTrainedModel) -> str:
    """Return which code of the libraries was replaced by foreign code, in words; empty if none was.

    The model's own code then runs as `generate` runs it, token by token: nothing says what foreign code does
    with several tokens, and it may act only in texts longer than those of a trial.
    """
    for place in library_places(model):
        for name, value in place.items():
            if place.owner is not None and name not in CALL_PATH and not _is_modeling(place.owner):
                continue
            if place.is_registry and name not in _OWN_ENTRIES:
                continue  # other names are made to be registered: the probe tries their functions
            if not _is_own(place, name, value):
                return f"{place.name}.{name} was replaced by code of others"
    return ""


def _is_own(place: Place, name: str, value: object) -> bool:
    """Return whether an object at a place of the libraries can be the libraries' own."""
    if isinstance(value, property):
        return comes_from_libraries(value.fget)
    if isinstance(value, type) or not callable(value):
        return True
    if place.owner is None and type(value).__module__.startswith(_LIBRARIES):  # an object such as a registry
        return True
    if not comes_from_libraries(value):
        return type(value).__module__ in ("typing", "functools", "types") and place.owner is None
    code = getattr(innermost(value), "__code__", None)
    if name != "forward" or code is None or place.owner is None or place.owner is nn.Module:
        return True
    return code.co_qualname.rpartition(".")[0] in _names_of(place.owner)  # else another class's forward


def _names_of(owner: type) -> set[str]:
    return {base.__qualname__ for base in owner.__mro__}


@lru_cache(maxsize=64)
def _places_of(types: frozenset[type]) -> tuple[Place, ...]:
    owners = {owner for found in types for owner in found.__mro__ if owner.__module__.startswith(_LIBRARIES)}
    places = [_place_of(owner, is_leaf=owner in types) for owner in sorted(owners, key=_full_name)]
    modules = {owner.__module__ for owner in owners if owner.__module__.startswith(_MODELING)}
    globals_of = {name: vars(sys.modules[name]) for name in sorted(modules | _HELPERS)}
    used = _names_used_by([*places, *(Place(name, found) for name, found in globals_of.items())])
    for name, found in globals_of.items():
        places.append(Place(name.rpartition(".")[2], found, tuple(sorted(used & found.keys()))))
    for name, namespace in _NAMESPACES:
        here = {name for name in used | _OPERATORS if hasattr(namespace, name)}
        places.append(Place(name, vars(namespace), tuple(sorted(here))))
    return tuple(places)


def _place_of(owner: type, *, is_leaf: bool) -> Place:
    is_whole = _is_modeling(owner) or (is_leaf and len(vars(owner)) < _SMALL_CLASS)
    return Place(owner.__qualname__, vars(owner), None if is_whole else CALL_PATH, owner)


def _is_modeling(owner: type) -> bool:
    return owner.__module__.startswith(_MODELING)


def _full_name(owner: type) -> str:
    return f"{owner.__module__}.{owner.__qualname__}"


def _names_used_by(places: list[Place]) -> set[str]:
    """Return the names that the functions at these places, and the functions in them, use."""
    found: set[str] = set()
    for place in places:
        is_whole = place.owner is None or _is_modeling(place.owner)
        functions = [
            innermost(value)
            for name, value in place.items()
            if isinstance(value, FunctionType) and (is_whole or name == "forward")
        ]
        waiting = [function.__code__ for function in functions if hasattr(function, "__code__")]
        while waiting:
            code = waiting.pop()
            found.update(name for name in code.co_names if not name.startswith("__"))
            waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return found


def _attention_places(model: PreTrainedModel) -> list[Place]:
    """Return the entries of the registries of attention and mask functions that a model uses."""
    return [
        Place(name, mapping, names, is_registry=True) for name, mapping, names in attention_entries(model)
    ]


def global_state(device_type: str) -> tuple[object, ...]:
    """Return the settings of torch under which any forward pass on devices of a type is another one."""
    modules = nn.modules.module
    hooks = (modules._global_forward_hooks, modules._global_forward_pre_hooks)
    return (
        torch.is_autocast_enabled(device_type),
        any(hooks),
        tuple(id(hook) for found in hooks for hook in found.values()),
        is_observed(),
    )
