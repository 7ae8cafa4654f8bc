"""Whether a model changed: between calls by its fingerprint, within a call by a watch.

Both look at the same things: code of the libraries, hooks, modules, configuration, attributes, weights.
A fingerprint keeps nothing alive. A watch holds what it compares, which is faster, and lives for one call.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedConfig, PreTrainedModel

from lookahead.hf.compat.attention import attention_name, attention_name_in
from lookahead.hf.compat.config import text_config
from lookahead.hf.compat.fingerprint.places import functions_at, global_state, library_places
from lookahead.hf.compat.modifications import has_own_forward, hooks_of, modules_of

_SCALARS = frozenset((bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device))
_CONTAINERS = frozenset((list, tuple, dict, set))
_WEIGHTS_ONLY = frozenset((nn.Linear, nn.Embedding))
"""Modules whose forward pass reads their weights alone."""
_STATE_OF_ALL = frozenset(vars(nn.Module()))
"""Attributes of every module: parameters, children, hooks."""


@dataclass(frozen=True)
class Fingerprint:
    """Everything that a model's forward pass depends on besides its inputs and the numbers in its weights.

    Attributes:
        code: Code of the libraries, global hooks, modules, their hooks, the configuration.
        details: Attributes of the modules; address, shape, strides and dtype of each weight.
    """

    code: tuple[object, ...]
    details: tuple[object, ...]

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Fingerprint":
        """Return a model's fingerprint; it takes some milliseconds."""
        places = library_places(model)
        modules = modules_of(model)
        hooks = list(chain.from_iterable(hooks_of(module) for module in modules))
        held = [*(value for place in places for value in place.values()), *modules]
        held += [hook for found in hooks if found for hook in found.values()]
        code = (
            list(map(id, held)),
            [id(function.__code__) for function in functions_at(places)],
            list(map(type, modules)),
            list(map(has_own_forward, modules)),
            [tuple(map(id, vars(module)["_modules"].values())) for module in modules],
            global_state(model.device.type),
            attention_name(model),
            _settings_of(model),
        )
        owners = _owners_of(modules)
        attributes = [_attributes_of(module) for module in _static(modules)]
        tensors = [mapping[name] for mapping, name in owners if mapping[name] is not None]
        return cls(code, (attributes, list(map(type, tensors)), _layout_of(tensors)))


class Change(Enum):
    """What changed of a model in the course of a call."""

    NOTHING = "nothing"
    DETAILS = "its weights or attributes"
    CODE = "the code that runs"


class ModelWatch:
    """Notices changes of a model in the course of a call.

    After a compiled step none of these objects is in the processor's caches, so each that is touched costs.

    Args:
        model: The model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._device_type = model.device.type
        self._config = text_config(model)
        self._places = library_places(model)
        self._calls: list[tuple[Mapping[str, Any], Sequence[str]]] = [
            (place.mapping, ("forward", "__call__") if place.owner else place.names or ())
            for place in self._places
            if place.owner or place.is_registry
        ]
        self._functions = functions_at(self._places)
        self._modules = modules_of(model)
        self._dicts = list(map(vars, self._modules))
        self._children = [vars(module)["_modules"] for module in self._modules if vars(module)["_modules"]]
        self._registered_hooks = RemovableHandle.next_id
        self._hooks = self._hooks_now()
        static = _static(self._modules)
        self._numbers = [
            (vars(module), _names_of_numbers(module))
            for module in static
            if type(module) not in _WEIGHTS_ONLY
        ]
        self._settings = [(vars(config), _public_names(config)) for config in _configs_of(model)]
        containers = _containers_of([*map(vars, static)], self._settings)
        self._containers = [(found, name, _copied(found[name])) for found, name in containers]
        self._weights = WeightWatch.of(static)
        self._patched = self._patched_now()
        self._code = self._code_now()
        self._details = self._details_now()

    def change(self, *, thoroughly: bool) -> Change:
        """Return what changed since the watch began.

        Args:
            thoroughly: Whether to look at everything, as after code of the user's ran; else only at what
                another thread may change at any time: patched classes, global hooks, addresses of weights.
        """
        if not _is_equal(self._patched_now(), self._patched):
            return Change.CODE
        if thoroughly and not (_is_equal(self._code_now(), self._code) and self._has_same_hooks()):
            return Change.CODE
        if self._weights.have_moved() or (thoroughly and not _is_equal(self._details_now(), self._details)):
            return Change.DETAILS
        return Change.NOTHING

    def _patched_now(self) -> tuple[object, ...]:
        calls = [tuple(map(mapping.get, names)) for mapping, names in self._calls]
        return (calls, global_state(self._device_type))

    def _code_now(self) -> tuple[object, ...]:
        return (
            [place.values() for place in self._places],
            [function.__code__ for function in self._functions],
            attention_name_in(self._config),
            self._model.training,
            [(len(settings), *map(settings.get, names)) for settings, names in self._settings],
            list(map(type, self._modules)),
            list(map(len, self._dicts)),  # a `forward` of a single module is one more attribute
            [tuple(children.values()) for children in self._children],
        )

    def _hooks_now(self) -> list[tuple[object, ...]]:
        hooks = chain.from_iterable(hooks_of(module) for module in self._modules)
        return [tuple(found.values()) for found in hooks if found]

    def _has_same_hooks(self) -> bool:
        """Return whether the modules' hooks are the same; all are looked at only if there may be others."""
        if not self._hooks and self._registered_hooks == RemovableHandle.next_id:
            return True
        registered, is_same = RemovableHandle.next_id, self._hooks_now() == self._hooks
        if is_same:  # else the next look must find the same
            self._registered_hooks = registered
        return is_same

    def _details_now(self) -> tuple[object, ...]:
        return (
            [tuple(map(attributes.get, names)) for attributes, names in self._numbers],
            [_is_equal(found.get(name), before) for found, name, before in self._containers],
            self._weights.versions(),
        )


def other_threads_run() -> bool:
    """Return whether other threads of this process run Python code."""
    return len(sys._current_frames()) > 1


class WeightWatch:
    """Notices that weights were replaced or moved.

    Args:
        owners: For each weight the mapping of its module that holds it, and its name there.
    """

    def __init__(self, owners: Sequence[tuple[Mapping[str, Any], str]]) -> None:
        self._mappings = [mapping for mapping, _ in owners]
        self._names = [name for _, name in owners]
        self._held = self._held_now()
        self._weights = [weight for weight in self._held if weight is not None]
        self._layout = _layout_of(self._weights)

    @classmethod
    def of(cls, modules: Iterable[nn.Module]) -> "WeightWatch":
        """Return a watch of the parameters and buffers of modules."""
        return cls(_owners_of(modules))

    def have_moved(self) -> bool:
        """Return whether a weight is another tensor, or has another address, shape, stride or dtype."""
        return not all(map(is_, self._held_now(), self._held)) or _layout_of(self._weights) != self._layout

    def versions(self) -> list[int]:
        """Return how often each parameter was changed in place, where torch counts it."""
        parameters = [weight for weight in self._weights if isinstance(weight, nn.Parameter)]
        try:
            return list(map(_VERSION, parameters))
        except RuntimeError:  # tensors made in inference mode
            return []

    def _held_now(self) -> list[Any]:
        return list(map(dict.get, self._mappings, self._names))  # type: ignore[arg-type]


_DTYPE, _VERSION = attrgetter("dtype"), attrgetter("_version")


def _is_equal(one: object, other: object) -> bool:
    try:
        return bool(one == other)
    except (RuntimeError, TypeError):  # a tensor in place of another object: it compares its elements
        return False


def _layout_of(tensors: Sequence[Any]) -> tuple[object, ...]:
    """Return where tensors lie; empty for tensors that do not say, as some that are quantised."""
    try:
        # The elements and the strides give the shape.
        return (
            list(map(Tensor.data_ptr, tensors)),
            list(map(Tensor.stride, tensors)),
            list(map(Tensor.numel, tensors)),
            list(map(_DTYPE, tensors)),
        )
    except (RuntimeError, TypeError):
        return ()


def _static(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Return the modules whose attributes do not change in forward passes, as dynamic RoPE types' do."""
    return [module for module in modules if "rope_type" not in vars(module)]


def _owners_of(modules: Iterable[nn.Module]) -> list[tuple[Mapping[str, Any], str]]:
    found: list[tuple[Mapping[str, Any], str]] = []
    for module in _static(modules):
        for mapping in (vars(module)["_parameters"], vars(module)["_buffers"]):
            found += [(mapping, name) for name in mapping]
    return found


def _attributes_of(module: nn.Module) -> tuple[object, ...]:
    """Return a module's attributes: numbers, words and containers of them by value, None for others."""
    found: list[object] = []
    for name, value in vars(module).items():
        if type(value) in _SCALARS:
            found.append(value)
        elif type(value) in _CONTAINERS and name not in _STATE_OF_ALL:
            found.append(_frozen(value))
        else:
            found.append(None)
    return tuple(found)


def _names_of_numbers(module: nn.Module) -> tuple[str, ...]:
    """Return the names of a module's attributes that are numbers or words, but for those of every module."""
    return tuple(
        name
        for name, value in vars(module).items()
        if type(value) in _SCALARS and (name == "training" or name not in _STATE_OF_ALL)
    )


def _containers_of(
    attributes: Iterable[Mapping[str, object]],
    settings: Iterable[tuple[Mapping[str, object], Sequence[str]]],
) -> list[tuple[Mapping[str, object], str]]:
    """Return the lists and dictionaries among attributes and settings: where each is, and its name."""
    named = [(found, [name for name in found if name not in _STATE_OF_ALL]) for found in attributes]
    return [
        (found, name)
        for found, names in [*named, *settings]
        for name in names
        if type(found[name]) in _CONTAINERS
    ]


def _copied(value: Any) -> Any:
    """Return a copy of containers in containers, with the other objects as they are."""
    if type(value) is dict:
        return {name: _copied(item) for name, item in value.items()}
    return type(value)(map(_copied, value)) if type(value) in (list, tuple, set) else value


def _frozen(value: object) -> object:
    """Return a container of numbers and words as something that does not change; None for other objects."""
    if type(value) in _SCALARS:
        return value
    if isinstance(value, dict):
        return tuple((name, _frozen(item)) for name, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    return tuple(sorted(map(repr, value))) if isinstance(value, set) else None


def _configs_of(model: PreTrainedModel) -> list[PreTrainedConfig]:
    """Return the configurations of a model and of its decoder, which are often one."""
    return list({id(config): config for config in (model.config, text_config(model))}.values())


def _public_names(config: PreTrainedConfig) -> list[str]:
    """Return the names of a configuration's settings, but for the private ones, which forwards change."""
    return [name for name in vars(config) if not name.startswith("_")]


def _settings_of(model: PreTrainedModel) -> tuple[object, ...]:
    """Return the settings of a model and its decoder, by value."""
    return tuple(
        (name, _frozen(vars(config)[name])) for config in _configs_of(model) for name in _public_names(config)
    )
