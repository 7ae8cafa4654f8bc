"""Whether a model changed: between calls by its fingerprint, within a call by a watch.

Both look at the same things: code of the libraries, hooks, modules, configuration, attributes, weights.
A fingerprint keeps nothing alive. A watch holds what it compares, which is faster, and lives for one call.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from lookahead.hf.compat.attention import attention_name
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
            global_state(model),
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

    Args:
        model: The model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._places = library_places(model)
        self._functions = functions_at(self._places)
        self._modules = modules_of(model)
        self._children = [vars(module)["_modules"] for module in self._modules if vars(module)["_modules"]]
        self._hooks = list(chain.from_iterable(hooks_of(module) for module in self._modules))
        static = _static(self._modules)
        self._sized = list(map(vars, static))
        self._attributes = [vars(module) for module in static if type(module) not in _WEIGHTS_ONLY]
        self._containers = [
            (attributes, name)
            for attributes in self._attributes
            for name, value in attributes.items()
            if type(value) in _CONTAINERS and name not in _STATE_OF_ALL
        ]
        self._settings = [(vars(config), _public_names(config)) for config in _configs_of(model)]
        self._containers += [
            (settings, name)
            for settings, names in self._settings
            for name in names
            if type(settings[name]) in _CONTAINERS
        ]
        self._others = [module for module in self._modules if "rope_type" in vars(module)]
        self._weights = WeightWatch.of(static)
        self._code = self._code_now()
        self._modules_before = self._modules_now()
        self._details = self._details_now()

    def change(self, *, thoroughly: bool) -> Change:
        """Return what changed since the watch began.

        Args:
            thoroughly: Whether to look at everything, as after code of the user's ran; else only at what
                another thread may change: code of the libraries, global hooks, addresses of weights.
        """
        if not _is_equal(self._code_now(), self._code):
            return Change.CODE
        if thoroughly and not _is_equal(self._modules_now(), self._modules_before):
            return Change.CODE
        if self._weights.have_moved() or (thoroughly and not _is_equal(self._details_now(), self._details)):
            return Change.DETAILS
        return Change.NOTHING

    def _code_now(self) -> tuple[object, ...]:
        values = [place.values() for place in self._places]
        codes = [function.__code__ for function in self._functions]
        return (values, codes, global_state(self._model))

    def _modules_now(self) -> tuple[object, ...]:
        return (
            attention_name(self._model),
            self._model.training,
            [(len(settings), *map(settings.get, names)) for settings, names in self._settings],
            list(map(type, self._modules)),
            list(map(has_own_forward, self._others)),
            [tuple(children.values()) for children in self._children],
            [tuple(hooks.values()) for hooks in self._hooks if hooks],
        )

    def _details_now(self) -> tuple[object, ...]:
        attributes = [tuple(found.values()) for found in self._attributes]
        containers = [_frozen(found.get(name)) for found, name in self._containers]
        return list(map(len, self._sized)), attributes, containers, self._weights.versions()


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
