"""Attaching Lookahead to a model: `model.generate`, and everything that calls it, uses Lookahead."""

import copy
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from types import MethodType, TracebackType
from typing import Any, Self

from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel
from transformers.generation.configuration_utils import GenerationMode

from lookahead.errors import ConfigError, LookaheadError
from lookahead.hf.compat.call import named_arguments, pop_stop_strings
from lookahead.hf.compat.config import waits_for_other_ranks
from lookahead.hf.compat.generation import sample_as_library
from lookahead.hf.compat.layout import mark_callers_cache
from lookahead.hf.generate.checks import SERVED_MODES, check_model

_ATTACHED = "generate"
_OTHER_LOOPS = ("custom_generate", "assistant_model", "synced_gpus")
"""Arguments that select another decoding loop."""


class Attachment:
    """Lookahead attached to a model, until `detach` or the end of a `with` block.

    Where Lookahead cannot serve a call, it steps aside: transformers decodes as without it, and one warning
    per reason says why.

    Args:
        model: The model; only this object changes, not its class.
        prepare: Checks a call that `generate` has prepared, before anything is generated or learned; raises
            `LookaheadError` if the call cannot be served.
        decode: Takes the result of `prepare` and returns the result of `generate`.
    """

    def __init__(
        self, model: PreTrainedModel, prepare: Callable[..., Any], decode: Callable[[Any], Any]
    ) -> None:
        self._model = uncompiled(model)
        self._prepare = prepare
        self._decode = decode
        self._shadowed: Any = None
        self._warned: set[str] = set()

    def attach(self) -> "Attachment":
        """Replace the model's own `generate`.

        Raises:
            ConfigError: A Lookahead is attached already.
        """
        if attachment_of(self._model) is not None:
            message = f"a Lookahead is attached to this {type(self._model).__name__}; detach it first"
            raise ConfigError(message)
        self._shadowed = vars(self._model).get(_ATTACHED)  # from a repository, loaded with its model
        # A method, so that a deep copy of the model generates with the copy.
        setattr(self._model, _ATTACHED, MethodType(self, self._model))
        return self

    def detach(self) -> None:
        """Restore the model's own `generate`; a second call does nothing."""
        if attachment_of(self._model) is self:
            detach(self._model)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.detach()

    def __call__(self, model: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        """Return what the model's own `generate` would return."""
        original: Any = getattr(type(model), _ATTACHED)
        if self._shadowed is not None:
            self._step_aside("the model came with a generate of its own")
            return self._shadowed(*args, **kwargs)
        if issubclass(type(model), GenerationMixin) and original is not GenerationMixin.generate:
            self._step_aside(f"{type(model).__name__} has a generate of its own")
            return original(model, *args, **kwargs)
        arguments = named_arguments(model, args, kwargs)
        if arguments.get("custom_generate", self) is None:
            del arguments["custom_generate"]
        other = _other_loop(model, arguments)
        if other is not None:
            self._step_aside(other)
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
            self._step_aside(str(reason))
            return sample_as_library(model, input_ids, **kwargs)
        return self._decode(prepared)

    def _step_aside(self, reason: str) -> None:
        """Warn with the reason, once."""
        if reason not in self._warned:
            self._warned.add(reason)
            message = f"Lookahead steps aside and {type(self._model).__name__} decodes without it: {reason}"
            warnings.warn(message, stacklevel=4)


def attachment_of(model: PreTrainedModel) -> Attachment | None:
    """Return the attachment of a model, or None."""
    method = vars(uncompiled(model)).get(_ATTACHED)
    attached = getattr(method, "__func__", None)
    return attached if isinstance(attached, Attachment) else None


def uncompiled(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model inside the wrapper of `torch.compile`, which delegates `generate` to it."""
    inner: PreTrainedModel = getattr(model, "_orig_mod", model)
    return inner


def detach(model: PreTrainedModel) -> None:
    """Restore a model's own `generate`; without an attachment this does nothing."""
    attachment = attachment_of(model)
    if attachment is None:
        return
    model = uncompiled(model)
    if attachment._shadowed is None:  # noqa: SLF001  # the other half of `attach`
        delattr(model, _ATTACHED)
    else:
        setattr(model, _ATTACHED, attachment._shadowed)  # noqa: SLF001


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
        "processes that share the model's weights must run in lockstep": waits_for_other_ranks(model),
        "token_healing was asked for": config.token_healing,
        f"{mode.value} was asked for, neither greedy search nor sampling": mode not in SERVED_MODES,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _merged_config(model: PreTrainedModel, kwargs: dict[str, Any]) -> Any:
    """Return the generation settings that transformers would use."""
    merged = copy.copy(model.generation_config)
    given = kwargs.get("generation_config")
    settings = {name: value for name, value in vars(given or merged).items() if value is not None}
    settings |= {name: value for name, value in kwargs.items() if hasattr(merged, name)}
    for name, value in settings.items():
        setattr(merged, name, value)
    return merged
