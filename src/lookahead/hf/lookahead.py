"""`Lookahead`: a generation mode of transformers, one line to turn on."""

from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lookahead.config import LookaheadConfig
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.drafting.store import DEFAULT_NAMESPACE, check_namespaces
from lookahead.errors import ConfigError
from lookahead.hf.compat.call import named_arguments, taken_stop_strings
from lookahead.hf.compat.layout import mark_callers_cache
from lookahead.hf.generate.attachment import Attachment, attachment_of, detach, uncompiled
from lookahead.hf.generate.checks import check_arguments, check_memory, check_model
from lookahead.hf.generate.mode import LookaheadMode
from lookahead.hf.namespace_view import NamespaceView
from lookahead.hf.vocabulary import vocabulary_successors
from lookahead.stats import GenerationStats

_BEFORE_THE_VOCABULARY = ".\n"
"""Each token of the vocabulary is read behind the end of a sentence: it says little about what comes."""


class Lookahead:
    """Generates what `model.generate` generates, several tokens a forward (arXiv 2312.12728).

    >>> la = Lookahead(LookaheadConfig(decoding_length=16))
    >>> ids = model.generate(**inputs, custom_generate=la, max_new_tokens=256)  # doctest: +SKIP

    Its draft memory lives from call to call: answers are remembered, prompts are forgotten with their
    request. It may be used from several threads, with one model or several.

    Args:
        config: settings; the defaults suit most.
        memory: the draft memory; a fresh one as large as the settings say if none is given.

    Attributes:
        config: the settings.
        memory: the draft memory; another one may take its place between calls.
        stats: counts and seconds of all calls since the last `reset_stats`.
        last_stats: those of the last call that ended.
    """

    def __init__(self, config: LookaheadConfig | None = None, *, memory: DraftMemory | None = None) -> None:
        self.config = config or LookaheadConfig()
        self.memory = DraftMemory(max_bytes=self.config.max_bytes) if memory is None else memory
        if not isinstance(self.memory, DraftMemory):
            message = (
                f"memory={memory!r:.80} is no DraftMemory; give DraftMemory(store=…) where it is a store"
            )
            raise ConfigError(message)
        self.stats = GenerationStats()
        self.last_stats = GenerationStats()
        self._stats_lock = Lock()
        self._mode = LookaheadMode(self.config, lambda: self.memory, self._record)

    def reset_stats(self) -> None:
        """Begin counting anew."""
        self.stats = GenerationStats()
        self.last_stats = GenerationStats()

    def for_namespace(self, namespace: str, *, reads: Sequence[str] = ()) -> NamespaceView:
        """Return this object for the requests of one namespace: memory, settings and stats are the same.

        >>> tenant = la.for_namespace("tenant-a", reads=("public",))  # doctest: +SKIP
        >>> ids = model.generate(**inputs, custom_generate=tenant)  # doctest: +SKIP

        Raises:
            ConfigError: a name is not allowed.
        """
        check_namespaces(namespace, reads)
        return NamespaceView(self, namespace, tuple(reads))

    def generate(
        self,
        model: PreTrainedModel,
        *args: Any,
        namespace: str | Sequence[str] = DEFAULT_NAMESPACE,
        reads: Sequence[str] = (),
        **kwargs: Any,
    ) -> Any:
        """Call `model.generate(*args, **kwargs)` with Lookahead; returns what it returns.

        Beyond `custom_generate=self` this makes `streamer` and `stop_strings` (with `tokenizer`) work,
        which the library does not hand to a custom callable.

        Args:
            model: the model to call.
            *args: for `model.generate`.
            namespace: whose memory the answers belong to and are drafted from; one for each prompt of a
                batch where they are several.
            reads: further namespaces to draft from.
            **kwargs: for `model.generate`.

        Raises:
            LookaheadError: the model or the call is one that Lookahead cannot serve; the message says why.
            ValueError: as `model.generate` does.
        """
        check_model(model)
        arguments = named_arguments(model, args, kwargs)
        check_arguments(arguments)
        extra_criteria = taken_stop_strings(model, arguments)
        mark_callers_cache(arguments)
        streamer = arguments.get("streamer")

        def mode(model: PreTrainedModel, input_ids: Tensor, **handed: Any) -> Any:
            handed["stopping_criteria"].extend(extra_criteria)
            return self(model, input_ids, streamer=streamer, namespace=namespace, reads=reads, **handed)

        arguments["custom_generate"] = mode
        if attachment_of(model) is not None:  # by another name it is this that is wanted
            model = uncompiled(model)
            original: Any = getattr(type(model), "generate")  # noqa: B009  # its type is the library's secret
            return original(model, **arguments)
        untyped: Any = model
        return untyped.generate(**arguments)

    def attach(
        self,
        model: PreTrainedModel,
        *,
        namespace: str | Sequence[str] = DEFAULT_NAMESPACE,
        reads: Sequence[str] = (),
    ) -> Attachment:
        """Turn Lookahead on for a model: `model.generate`, and whatever calls it, goes faster from now on.

        >>> la.attach(model)  # doctest: +SKIP
        >>> with la.attach(model):  # doctest: +SKIP
        ...     ids = model.generate(**inputs)

        Where Lookahead cannot serve a call it steps aside with one warning that says why.

        Args:
            model: the model; only this object changes.
            namespace: as for `generate`.
            reads: as for `generate`.

        Returns:
            What a `with` block or `detach` ends.

        Raises:
            ConfigError: a Lookahead is attached to the model already, or a name is not allowed.
        """
        for name in [namespace] if isinstance(namespace, str) else namespace:
            check_namespaces(name, reads)
        prepare = partial(self._mode.prepare, namespace=namespace, reads=tuple(reads))
        return Attachment(model, prepare, self._mode.decode).attach()

    def detach(self, model: PreTrainedModel) -> None:
        """Give a model its own `generate` back; nothing happens where none is attached."""
        detach(model)

    def learn_vocabulary(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_tokens: int | None = None,
        on_progress: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> None:
        """Learn what a model holds likely after each token of its vocabulary, so that no draft starts empty.

        It is as much work as reading a text of as many tokens, once for a model: save the memory to keep it.
        Tokens are commonly numbered by how frequent they are, so that the first 8,000 bring most of it.

        Args:
            model: a decoder-only model.
            tokenizer: the model's.
            max_tokens: learn so many of the first tokens; all if not given.
            on_progress: called now and then with how many tokens are done, and of how many.

        Raises:
            LookaheadError: the model is one that Lookahead cannot serve, or whose vocabulary is not the
                memory's.
        """
        check_model(model)
        check_memory(model, self.memory)
        before = tokenizer(_BEFORE_THE_VOCABULARY, add_special_tokens=False)["input_ids"] or [0]
        successors = vocabulary_successors(model, before, max_tokens, on_progress)
        self.memory.learn_vocabulary(successors)

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        *,
        namespace: str | Sequence[str] = DEFAULT_NAMESPACE,
        reads: Sequence[str] = (),
        **kwargs: Any,
    ) -> Any:
        """Decode as `generate` hands over: this is what `custom_generate=` calls.

        The library gives it no streamer: one passed to `model.generate` beside it would wait for ever, so
        stream with `generate` of this class, or `attach` it.

        Args:
            model: the model that `generate` was called on.
            input_ids: int64 [B, L], the prompts.
            namespace: as for `generate`; the library hands on what is named in this signature.
            reads: as for `generate`.
            **kwargs: logits_processor, stopping_criteria, generation_config and the model's own inputs.

        Returns:
            int64 [B, L + new tokens], or a `GenerateDecoderOnlyOutput` where a dict was asked for.

        Raises:
            LookaheadError: the model or the call is one that Lookahead cannot serve.
        """
        call = self._mode.prepare(model, input_ids, namespace=namespace, reads=reads, **kwargs)
        return self._mode.decode(call)

    def _record(self, stats: GenerationStats) -> None:
        with self._stats_lock:
            self.last_stats = stats
            self.stats.add(stats)
