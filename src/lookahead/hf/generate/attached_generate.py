"""What an attached model has in its `__dict__`: its `generate`, and how it is copied and saved.

Neither holds the model, so that `del model` frees it at once: `model.generate` of an attached model finds the
model by a weak reference.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import update_wrapper
from inspect import signature
from types import MethodType
from typing import TYPE_CHECKING, Any
from weakref import ref

from transformers import GenerationMixin, PreTrainedModel

from lookahead.errors import ConfigError

if TYPE_CHECKING:
    from lookahead.hf.generate.attachment import Attachment

_GENERATE = "generate"
_STATE = "__getstate__"


class AttachedGenerate:
    """`model.generate` of an attached model: called, inspected, copied and pickled as a bound method is.

    Unlike a bound method, it does not keep its model alive.

    Args:
        model: The model.
        attachment: Serves the calls.
        shadowed: The `generate` that was in the model's `__dict__` before; None if there was none.
    """

    def __init__(self, model: PreTrainedModel, attachment: "Attachment", shadowed: Any) -> None:
        self._model = ref(model)
        self.attachment = attachment
        self.shadowed = shadowed
        own: Any = getattr(type(model), _GENERATE, GenerationMixin.generate)
        update_wrapper(self, own)  # a shadowed one may have no name
        self.__signature__ = signature(MethodType(own, model) if shadowed is None else shadowed)
        if shadowed is not None:
            self.__wrapped__ = shadowed

    @property
    def __self__(self) -> PreTrainedModel:
        """The model, as of a bound method.

        Raises:
            ConfigError: It no longer exists.
        """
        model = self._model()
        if model is None:
            message = "the model of this generate no longer exists; keep a reference to the model itself"
            raise ConfigError(message)
        return model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the model's own `generate` would return."""
        return self.attachment.generate(self.__self__, self.shadowed, args, kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> "AttachedGenerate":
        """Return itself, as a bound method does; `help` and `inspect` then take it for one."""
        return self

    def __copy__(self) -> "AttachedGenerate":
        """Return itself: it belongs to the same model."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Return the `generate` of the copied model."""
        return getattr(deepcopy(self.__self__, memo), _GENERATE)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a bound method: the loaded one belongs to the loaded model, which is not attached."""
        return getattr, (self.__self__, _GENERATE)


class _PlainState:
    """`model.__getstate__` of an attached model: gives pickle and `copy` the model without the attachment."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = ref(model)

    def __call__(self) -> Any:
        model: Any = self._model()
        owner: Any = type(model)
        state = owner.__getstate__(model)
        if type(state) is tuple and len(state) == 2 and isinstance(state[0], dict):  # a class with slots
            return _State(model, state[0]), state[1]
        return _State(model, state) if isinstance(state, dict) else state

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return getattr(deepcopy(self._model(), memo), _STATE)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._model(), _STATE)


class _State(dict[str, Any]):
    """A model's state without the attachment; a deep copy of it is a state with an attachment of its own."""

    def __init__(self, model: PreTrainedModel, state: dict[str, Any]) -> None:
        super().__init__(state)
        self._model = model
        self._attached: Any = self.pop(_GENERATE, None)
        self.pop(_STATE, None)
        if self._attached is not None and self._attached.shadowed is not None:
            self[_GENERATE] = self._attached.shadowed

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        state = deepcopy(dict(self), memo)
        copied = memo.get(id(self._model))
        if copied is not None and self._attached is not None:
            attachment = memo[id(self._attached.attachment)] = self._attached.attachment.for_copy(copied)
            state |= entries(copied, attachment, state.get(_GENERATE))
        return state

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        """Pickle as a plain dict, for which loading needs nothing of Lookahead."""
        items: Iterator[tuple[str, Any]] = iter(self.items())
        make: Callable[[], dict[str, Any]] = dict
        return make, (), None, None, items


def entries(model: PreTrainedModel, attachment: "Attachment", shadowed: Any) -> dict[str, Any]:
    """Return what an attached model has in its `__dict__`."""
    return {_GENERATE: AttachedGenerate(model, attachment, shadowed), _STATE: _PlainState(model)}


def attached_generate(model: PreTrainedModel) -> AttachedGenerate | None:
    """Return the entry of an attached model; None if none is attached."""
    found = vars(model).get(_GENERATE)
    return found if isinstance(found, AttachedGenerate) else None


def shadowed_by(model: PreTrainedModel) -> Any:
    """Return the `generate` in a model's `__dict__`, which came with it from a repository, or None."""
    return vars(model).get(_GENERATE)


def remove_entries(model: PreTrainedModel) -> None:
    """Restore a model's own `generate`; without an attachment this does nothing."""
    attached = attached_generate(model)
    if attached is None:
        return
    own = vars(model)
    own.pop(_STATE, None)
    if attached.shadowed is None:
        del own[_GENERATE]
    else:
        own[_GENERATE] = attached.shadowed
