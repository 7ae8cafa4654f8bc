"""`Lookahead`: a generation mode of transformers that one line turns on."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lookahead.config import LookaheadConfig
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.drafting.store import DEFAULT_NAMESPACE
from lookahead.engine.local_engine import LocalEngine
from lookahead.engine.settings import EngineSettings
from lookahead.errors import ConfigError
from lookahead.hf.compat.call import named_arguments, pop_stop_strings
from lookahead.hf.compat.layout import mark_callers_cache
from lookahead.hf.generate.attachment import Attachment, attachment_of, detach, uncompiled
from lookahead.hf.generate.checks import (
    check_arguments,
    check_can_generate,
    check_memory,
    check_model,
    check_options,
)
from lookahead.hf.generate.mode import CheckedCall, LookaheadMode, OnStats
from lookahead.hf.serving.create import create_engine
from lookahead.hf.steps.step_model import OnProgress
from lookahead.hf.support.report import SupportReport, support_report
from lookahead.hf.vocabulary import vocabulary_successors
from lookahead.stats import GenerationStats

_VOCABULARY_CONTEXT = ".\n"
"""Context of each token when the vocabulary is read: a sentence end says little about what follows."""


_MADE_ANEW = ("_stats_lock", "_mode")
"""What no copy takes over."""


def _checked(memory: object) -> DraftMemory:
    if not isinstance(memory, DraftMemory):
        message = (
            f"memory={memory!r:.80} is not a DraftMemory; give a DraftMemory, or DraftMemory(store=…) "
            "to use a store"
        )
        raise ConfigError(message)
    return memory


class _Supports:
    """`Lookahead.supports(model)` takes the default settings, `la.supports(model)` those of `la`."""

    def __get__(
        self, lookahead: "Lookahead | None", _owner: type
    ) -> Callable[[PreTrainedModel], SupportReport]:
        return partial(support_report, config=None if lookahead is None else lookahead.config)


class Lookahead:
    """Generates the text of `model.generate` with several tokens per forward pass (arXiv 2312.12728).

    >>> la = Lookahead(LookaheadConfig(decoding_length=16))
    >>> ids = model.generate(**inputs, custom_generate=la, max_new_tokens=256)  # doctest: +SKIP

    Its draft memory lives from call to call: answers are remembered, prompts are forgotten with their
    request. It may be used from several threads, with one model or several.

    A shallow copy (`copy.copy`) has the same memory, until one of the two is given another, and counts for
    itself. A deep copy or a pickled one has a memory of its own, with what the original remembered; live
    requests stay with the original. What is known of models, captured graphs included, is found out anew.

    Args:
        config: Settings; the defaults suit most uses.
        memory: The draft memory; if None, a fresh one with the settings' `max_bytes`.

    Attributes:
        config: The settings.
        memory: The draft memory; it may be replaced between calls.
        stats: Sum of the counts and times of all calls since the last `reset_stats`.
        last_stats: Counts and times of the last call that ended in any thread; `on_stats` of `generate` gives
            those of one call.
        supports: Called with a model, returns a `SupportReport`: how these settings decode the model, and why
            not in a better way. `Lookahead.supports(model)` takes the default settings.

    Raises:
        ConfigError: `config` or `memory` is of another type.
    """

    def __init__(self, config: LookaheadConfig | None = None, *, memory: DraftMemory | None = None) -> None:
        self.config = LookaheadConfig() if config is None else config
        if not isinstance(self.config, LookaheadConfig):
            message = (
                f"config={config!r:.80} is not a LookaheadConfig; give LookaheadConfig(decoding_length=…)"
            )
            raise ConfigError(message)
        self.memory = DraftMemory(max_bytes=self.config.max_bytes) if memory is None else _checked(memory)
        self._stats_lock = Lock()
        self.reset_stats()
        self._mode = LookaheadMode(self.config)

    def reset_stats(self) -> None:
        """Set all counts and times to zero."""
        with self._stats_lock:
            self.stats = GenerationStats()
            self.last_stats = GenerationStats()

    def for_namespace(self, namespace: str, *, reads: Sequence[str] = ()) -> "NamespaceView":
        """Return this object with `namespace` and `reads` filled in; memory, settings and stats are shared.

        >>> tenant = la.for_namespace("tenant-a", reads=("public",))  # doctest: +SKIP
        >>> ids = model.generate(**inputs, custom_generate=tenant)  # doctest: +SKIP

        Raises:
            ConfigError: A name is not allowed.
        """
        check_options(namespace, reads, None)
        return NamespaceView(self, namespace, tuple(reads))

    def generate(
        self,
        model: PreTrainedModel,
        *args: Any,
        namespace: str | Sequence[str] = DEFAULT_NAMESPACE,
        reads: Sequence[str] = (),
        on_stats: OnStats | None = None,
        on_progress: OnProgress | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call `model.generate(*args, **kwargs)` with Lookahead and return its result.

        Unlike `custom_generate=self`, this supports `streamer` and `stop_strings` (with `tokenizer`), which
        transformers does not pass to a custom callable.

        Args:
            model: The model to call.
            *args: For `model.generate`.
            namespace: The namespace that answers belong to and are drafted from; a sequence gives one for
                each prompt of a batch.
            reads: Further namespaces to draft from.
            on_stats: Called once with the counts and times of this call, in the calling thread, when the call
                ends or fails. A call that is refused has none.
            on_progress: Called while the prompts are read, after each chunk, with the number of their tokens
                that have been read and that of all; once if the model's own code reads them. An exception
                that it raises ends the call.
            **kwargs: For `model.generate`.

        Raises:
            LookaheadError: Lookahead cannot serve the model or the call; the message says why.
            ValueError: As raised by `model.generate`.
        """
        check_options(namespace, reads, on_stats, on_progress)
        check_model(model)
        arguments = named_arguments(model, args, kwargs)
        check_arguments(arguments)
        extra_criteria = pop_stop_strings(model, arguments)
        mark_callers_cache(arguments)
        own: dict[str, Any] = {
            "streamer": arguments.get("streamer"),
            "namespace": namespace,
            "reads": reads,
            "on_stats": on_stats,
            "on_progress": on_progress,
        }

        def mode(model: PreTrainedModel, input_ids: Tensor, **prepared: Any) -> Any:
            prepared["stopping_criteria"].extend(extra_criteria)
            return self(model, input_ids, **own, **prepared)

        arguments["custom_generate"] = mode
        if attachment_of(model) is not None:  # model.generate is an attachment: call the class's own
            model = uncompiled(model)
            original: Any = getattr(type(model), "generate")  # noqa: B009  # transformers hides its type
            return original(model, **arguments)
        untyped: Any = model
        return untyped.generate(**arguments)

    def attach(
        self,
        model: PreTrainedModel,
        *,
        namespace: str | Sequence[str] = DEFAULT_NAMESPACE,
        reads: Sequence[str] = (),
        on_stats: OnStats | None = None,
        on_progress: OnProgress | None = None,
    ) -> Attachment:
        """Turn Lookahead on for a model: `model.generate` and everything that calls it use Lookahead.

        >>> la.attach(model)  # doctest: +SKIP
        >>> with la.attach(model):  # doctest: +SKIP
        ...     ids = model.generate(**inputs)

        Where Lookahead cannot serve a call, it steps aside with one warning that says why.

        Args:
            model: The model; only this object changes.
            namespace: As for `generate`.
            reads: As for `generate`.
            on_stats: As for `generate`, for each call that Lookahead serves.
            on_progress: Likewise.

        Returns:
            The attachment, which a `with` block or `detach` ends.

        Raises:
            ConfigError: A Lookahead is attached to the model already, or a name is not allowed.
            UnsupportedModelError: The model has no `generate`.
        """
        check_options(namespace, reads, on_stats, on_progress)
        check_can_generate(model)
        own: dict[str, Any] = {"on_stats": on_stats, "on_progress": on_progress}
        prepare = partial(self._prepare, namespace=namespace, reads=tuple(reads), **own)
        return Attachment(model, prepare, self._mode.decode).attach()

    def engine(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        settings: EngineSettings | None = None,
    ) -> LocalEngine:
        """Return a running engine that serves many requests at once, with this object's settings and memory.

        >>> with la.engine(model, tokenizer) as engine:  # doctest: +SKIP
        ...     answer = engine.submit(Request(prompt_ids=ids)).result()

        How the model is served, and what holds for an answer while others are served, is logged to the
        logger `lookahead`.

        Args:
            model: The model; nothing else may change it while the engine runs.
            tokenizer: Its tokenizer; only stop strings need it.
            settings: How much the engine takes on.

        Raises:
            LookaheadError: Lookahead cannot serve the model.
        """
        return create_engine(model, tokenizer, self.config, self.memory, settings or EngineSettings())[0]

    supports = _Supports()

    def detach(self, model: PreTrainedModel) -> None:
        """Restore a model's own `generate`; without an attachment this does nothing."""
        detach(model)

    def warm_vocabulary(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        limit: int | None = None,
        on_progress: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> None:
        """Learn the model's top-k next tokens after each token of its vocabulary: no draft is then empty.

        This takes as long as reading a text of as many tokens, once per model; save the memory to keep the
        result. Tokenizers commonly number tokens by frequency, so the first 8,000 give most of the gain.

        Args:
            model: A decoder-only model.
            tokenizer: The model's tokenizer.
            limit: Learn only the first N tokens of the vocabulary; all if None.
            on_progress: Called repeatedly with the number of tokens done and their total.

        Raises:
            LookaheadError: Lookahead cannot serve the model, or its vocabulary is not the memory's.
        """
        check_model(model)
        check_memory(model, self.memory)
        before = tokenizer(_VOCABULARY_CONTEXT, add_special_tokens=False)["input_ids"] or [0]
        self.memory.learn_vocabulary(vocabulary_successors(model, before, limit, on_progress))

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        *,
        namespace: str | Sequence[str] = DEFAULT_NAMESPACE,
        reads: Sequence[str] = (),
        on_stats: OnStats | None = None,
        on_progress: OnProgress | None = None,
        **kwargs: Any,
    ) -> Any:
        """Decode a call that `generate` has prepared: `custom_generate=` calls this.

        Transformers passes no streamer to it: a streamer given to `model.generate` would wait for ever. Use
        `Lookahead.generate` or `attach` for streaming.

        Args:
            model: The model that `generate` was called on.
            input_ids: int64 [B, L], the prompts.
            namespace: As for `generate`; transformers passes on the keywords that this signature names.
            reads: As for `generate`.
            on_stats: As for `generate`.
            on_progress: As for `generate`.
            **kwargs: Logits_processor, stopping_criteria, generation_config and the model's inputs.

        Returns:
            int64 [B, L + new tokens], or a `GenerateDecoderOnlyOutput` if `return_dict_in_generate` is set.

        Raises:
            LookaheadError: Lookahead cannot serve the model or the call.
        """
        check_options(namespace, reads, on_stats, on_progress)
        own: dict[str, Any] = {"on_stats": on_stats, "on_progress": on_progress}
        call = self._prepare(model, input_ids, namespace=namespace, reads=reads, **own, **kwargs)
        return self._mode.decode(call)

    def _prepare(self, model: PreTrainedModel, input_ids: Tensor, /, **kwargs: Any) -> CheckedCall:
        return self._mode.prepare(_checked(self.memory), self._record, model, input_ids, **kwargs)

    def _record(self, stats: GenerationStats) -> None:
        with self._stats_lock:
            self.last_stats = stats
            self.stats.add(stats)

    def __getstate__(self) -> dict[str, Any]:
        with self._stats_lock:
            counts = {"stats": copy(self.stats), "last_stats": copy(self.last_stats)}
        return {name: value for name, value in vars(self).items() if name not in _MADE_ANEW} | counts

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._stats_lock = Lock()
        self._mode = LookaheadMode(self.config)


@dataclass(frozen=True)
class NamespaceView:
    """A `Lookahead` whose calls all use one namespace; `custom_generate=` takes it as well.

    Attributes:
        lookahead: The object whose memory, settings and stats it shares.
        namespace: The namespace that answers belong to.
        reads: Further namespaces to draft from.
    """

    lookahead: Lookahead
    namespace: str
    reads: tuple[str, ...] = ()

    def generate(self, model: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        """Call `Lookahead.generate` in this namespace."""
        return self.lookahead.generate(model, *args, namespace=self.namespace, reads=self.reads, **kwargs)

    def attach(
        self,
        model: PreTrainedModel,
        *,
        on_stats: OnStats | None = None,
        on_progress: OnProgress | None = None,
    ) -> Attachment:
        """Call `Lookahead.attach` in this namespace."""
        own: dict[str, Any] = {"on_stats": on_stats, "on_progress": on_progress}
        return self.lookahead.attach(model, namespace=self.namespace, reads=self.reads, **own)

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        *,
        on_stats: OnStats | None = None,
        on_progress: OnProgress | None = None,
        **kwargs: Any,
    ) -> Any:
        """Decode as `Lookahead` does, in this namespace."""
        own: dict[str, Any] = {"on_stats": on_stats, "on_progress": on_progress}
        return self.lookahead(model, input_ids, namespace=self.namespace, reads=self.reads, **own, **kwargs)
