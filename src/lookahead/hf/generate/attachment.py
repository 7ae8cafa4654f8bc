"""Attaching Lookahead to a model: `model.generate`, and everything that calls it, uses Lookahead."""

import copy
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self
from weakref import ref

from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel
from transformers.generation.configuration_utils import GenerationMode

from lookahead.errors import ConfigError, LookaheadError
from lookahead.hf.compat.call import named_arguments, pop_stop_strings
from lookahead.hf.compat.generation import sample_as_library
from lookahead.hf.compat.layout import mark_callers_cache
from lookahead.hf.generate.attached_generate import attached_generate, entries, remove_entries, shadowed_by
from lookahead.hf.generate.checks import SERVED_MODES, check_model

_OTHER_LOOPS = ("custom_generate", "assistant_model", "synced_gpus")
"""Arguments that select another decoding loop."""


class Attachment:
    """Lookahead attached to a model, until `detach` or the end of a `with` block. It does not hold the model.

    Where Lookahead cannot serve a call, it steps aside: transformers decodes as without it, and one warning
    per reason says why.

    A copy of it made with its model belongs to the copied model. By itself, a shallow copy or a pickled one
    has ended.

    Args:
        model: The model; only this object changes, not its class.
        prepare: Checks a call that `generate` has prepared, before anything is generated or learned; raises
            `LookaheadError` if the call cannot be served.
        decode: Takes the result of `prepare` and returns the result of `generate`.
    """

    def __init__(
        self, model: PreTrainedModel, prepare: Callable[..., Any], decode: Callable[[Any], Any]
    ) -> None:
        self._model: Callable[[], PreTrainedModel | None] = ref(uncompiled(model))
        self._prepare = prepare
        self._decode = decode
        self._warned: set[str] = set()

    def attach(self) -> "Attachment":
        """Replace the model's own `generate`.

        Raises:
            ConfigError: A Lookahead is attached already.
        """
        model = self._model()
        if model is None:
            return self
        if attachment_of(model) is not None:
            message = f"a Lookahead is attached to this {type(model).__name__}; detach it first"
            raise ConfigError(message)
        vars(model).update(entries(model, self, shadowed_by(model)))
        return self

    def detach(self) -> None:
        """Restore the model's own `generate`; a second call does nothing."""
        model = self._model()
        if model is not None and attachment_of(model) is self:
            detach(model)

    def for_copy(self, model: PreTrainedModel) -> "Attachment":
        """Return the attachment of a copy of the model, which its `__dict__` is about to get."""
        return Attachment(model, self._prepare, self._decode)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.detach()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Attachment":
        model = self._model()
        if model is not None and attachment_of(model) is self:
            copy.deepcopy(model, memo)  # with an attachment of its own
        copied: Attachment | None = memo.get(id(self))
        return copy.copy(self) if copied is None else copied

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: object) -> None:
        self._model = _no_model
        self._warned = set()

    def generate(
        self, model: PreTrainedModel, shadowed: Any, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        """Return what the model's own `generate` would return.

        Args:
            model: The model that `generate` was called on.
            shadowed: A `generate` that came with the model, or None.
            args: The call's.
            kwargs: The call's.
        """
        original: Any = getattr(type(model), "generate")  # noqa: B009  # transformers hides its type
        if shadowed is not None:
            self._step_aside(model, "the model came with a generate of its own")
            return shadowed(*args, **kwargs)
        if issubclass(type(model), GenerationMixin) and original is not GenerationMixin.generate:
            self._step_aside(model, f"{type(model).__name__} has a generate of its own")
            return original(model, *args, **kwargs)
        arguments = named_arguments(model, args, kwargs)
        if arguments.get("custom_generate", self) is None:
            del arguments["custom_generate"]
        other = _other_loop(model, arguments)
        if other is not None:
            self._step_aside(model, other)
            return original(model, **arguments)
        extra_criteria = pop_stop_strings(model, arguments)
        mark_callers_cache(arguments)
        mode = partial(self._generate, streamer=arguments.get("streamer"), extra_criteria=extra_criteria)
        return original(model, custom_generate=mode, **arguments)

    def _generate(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        *,
        extra_criteria: Sequence[Any],
        stopping_criteria: Any,
        **kwargs: Any,
    ) -> Any:
        stopping_criteria.extend(extra_criteria)
        kwargs["stopping_criteria"] = stopping_criteria
        try:
            prepared = self._prepare(model, input_ids, **kwargs)
        except LookaheadError as reason:
            self._step_aside(model, str(reason))
            return sample_as_library(model, input_ids, **kwargs)
        return self._decode(prepared)

    def _step_aside(self, model: PreTrainedModel, reason: str) -> None:
        """Warn with the reason, once."""
        if reason not in self._warned:
            self._warned.add(reason)
            message = f"Lookahead steps aside and {type(model).__name__} decodes without it: {reason}"
            warnings.warn(message, stacklevel=4)


def attachment_of(model: PreTrainedModel) -> Attachment | None:
    """Return the attachment of a model, or None."""
    attached = attached_generate(uncompiled(model))
    return None if attached is None else attached.attachment


def uncompiled(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model inside the wrapper of `torch.compile`, which delegates `generate` to it."""
    inner: PreTrainedModel = getattr(model, "_orig_mod", model)
    return inner


def detach(model: PreTrainedModel) -> None:
    """Restore a model's own `generate`; without an attachment this does nothing."""
    remove_entries(uncompiled(model))


def _no_model() -> None:
    """Return None, as the weak reference to a model that no longer exists does."""


def _other_loop(model: PreTrainedModel, kwargs: dict[str, Any]) -> str | None:
    """Return why a call does not use the one-token loop of transformers; None if it does."""
    for name in _OTHER_LOOPS:
        if kwargs.get(name) not in (None, False):
            return f"{name} was given"
    try:
        check_model(model)
    except LookaheadError as reason:
        return str(reason)
    config = _merged_config(model, kwargs)
    mode: GenerationMode = config.get_generation_mode()
    reasons = {
        "token_healing was asked for": config.token_healing,
        f"{mode.value} was asked for, neither greedy search nor sampling": mode not in SERVED_MODES,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _merged_config(model: PreTrainedModel, kwargs: dict[str, Any]) -> Any:
    """Return the generation settings that transformers would use."""
    merged = copy.copy(model.generation_config)
    given = kwargs.get("generation_config")
    own = getattr(given or merged, "__dict__", {})  # whatever else was given, `generate` refuses
    settings = {name: value for name, value in own.items() if value is not None}
    settings |= {name: value for name, value in kwargs.items() if hasattr(merged, name)}
    for name, value in settings.items():
        setattr(merged, name, value)
    return merged
