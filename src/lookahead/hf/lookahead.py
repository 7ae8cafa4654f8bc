"""`Lookahead`: a generation mode of transformers, one line to turn on."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.stopping_criteria import StopStringCriteria
from transformers.generation.utils import GenerateDecoderOnlyOutput

from lookahead.config import DraftMode, LookaheadConfig
from lookahead.decoding.emission import Emission
from lookahead.decoding.loop import decode
from lookahead.drafting.budget import BudgetPolicy
from lookahead.drafting.drafter import NoDrafter, RequestDrafter
from lookahead.drafting.memory import DraftMemory
from lookahead.drafting.pace import Pace
from lookahead.drafting.store import DEFAULT_NAMESPACE, check_namespaces
from lookahead.errors import ConfigError
from lookahead.hf.checks import check_cache, check_call, check_inputs, check_memory, check_model, check_prompt
from lookahead.hf.compat import (
    AttentionLayout,
    attention_layout,
    made_cache,
    streamers_come_first,
    text_config,
)
from lookahead.hf.library_steps import LibraryStepModel
from lookahead.hf.probe import ProbeResult, Probes
from lookahead.hf.step_model import TransformersStepModel
from lookahead.hf.step_times import StepTimesCache, context_bucket, step_times_for
from lookahead.hf.verification import ModelMode
from lookahead.hf.vocabulary import vocabulary_successors
from lookahead.stats import GenerationStats

_BEFORE_THE_VOCABULARY = ".\n"
"""Each token of the vocabulary is read behind the end of a sentence: it says little about what comes."""


class Lookahead:
    """Generates what `model.generate` generates, several tokens a forward (arXiv 2312.12728).

    >>> la = Lookahead(LookaheadConfig(decoding_length=16))
    >>> ids = model.generate(**inputs, custom_generate=la, max_new_tokens=256)  # doctest: +SKIP

    Its draft memory lives from call to call: answers are remembered, prompts are forgotten with their
    request.

    Args:
        config: settings; the defaults suit most.
        memory: the draft memory; a fresh one as large as the settings say if none is given.

    Attributes:
        config: the settings.
        memory: the draft memory.
        stats: counts and seconds of all calls since the last `reset_stats`.
        last_stats: those of the last call that ended.
    """

    def __init__(self, config: LookaheadConfig | None = None, *, memory: DraftMemory | None = None) -> None:
        self.config = config or LookaheadConfig()
        self.memory = DraftMemory(max_bytes=self.config.memory_bytes) if memory is None else memory
        if not isinstance(self.memory, DraftMemory):
            message = (
                f"memory={memory!r:.80} is no DraftMemory; give DraftMemory(store=…) where it is a store"
            )
            raise ConfigError(message)
        self.stats = GenerationStats()
        self.last_stats = GenerationStats()
        self._paces: WeakKeyDictionary[PreTrainedModel, dict[object, Pace]] = WeakKeyDictionary()
        self._probes = Probes()

    def reset_stats(self) -> None:
        """Begin counting anew."""
        self.stats = GenerationStats()
        self.last_stats = GenerationStats()

    def for_namespace(self, namespace: str, *, reads: Sequence[str] = ()) -> "NamespaceView":
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
        namespace: str = DEFAULT_NAMESPACE,
        reads: Sequence[str] = (),
        **kwargs: Any,
    ) -> Any:
        """Call `model.generate(*args, **kwargs)` with Lookahead; returns what it returns.

        Beyond `custom_generate=self` this makes `streamer` and `stop_strings` (with `tokenizer`) work,
        which the library does not hand to a custom callable.

        Args:
            model: the model to call.
            *args: for `model.generate`.
            namespace: whose memory the answer belongs to and is drafted from.
            reads: further namespaces to draft from.
            **kwargs: for `model.generate`.

        Raises:
            LookaheadError: the model or the call is one that Lookahead cannot serve; the message says why.
            ValueError: as `model.generate` does.
        """
        check_model(model)
        extra_criteria = _taken_stop_strings(kwargs)
        mode = partial(
            self._generate,
            streamer=kwargs.get("streamer"),
            extra_criteria=extra_criteria,
            namespace=namespace,
            reads=reads,
        )
        untyped: Any = model
        return untyped.generate(*args, custom_generate=mode, **kwargs)

    def learn_vocabulary(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        most_tokens: int | None = None,
        on_progress: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> None:
        """Learn what a model holds likely after each token of its vocabulary, so that no draft starts empty.

        It is as much work as reading a text of as many tokens, once for a model: save the memory to keep it.
        Tokens are commonly numbered by how frequent they are, so that the first 8,000 bring most of it.

        Args:
            model: a decoder-only model.
            tokenizer: the model's.
            most_tokens: learn so many of the first tokens; all if not given.
            on_progress: called now and then with how many tokens are done, and of how many.

        Raises:
            LookaheadError: the model is one that Lookahead cannot serve, or whose vocabulary is not the
                memory's.
        """
        check_model(model)
        check_memory(model, self.memory)
        before = tokenizer(_BEFORE_THE_VOCABULARY, add_special_tokens=False)["input_ids"] or [0]
        successors = vocabulary_successors(model, before, most_tokens, on_progress)
        self.memory.learn_vocabulary(successors)

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        reads: Sequence[str] = (),
        **kwargs: Any,
    ) -> Any:
        """Decode as `generate` hands over: this is what `custom_generate=` calls.

        The library gives it no streamer: one passed to `model.generate` beside it would wait for ever, so
        stream with `generate` of this class.

        Args:
            model: the model that `generate` was called on.
            input_ids: int64 [1, L], the prompt.
            namespace: as for `generate`; the library hands on what is named in this signature.
            reads: as for `generate`.
            **kwargs: logits_processor, stopping_criteria, generation_config and the model's own inputs.

        Returns:
            int64 [1, L + new tokens], or a `GenerateDecoderOnlyOutput` where a dict was asked for.

        Raises:
            LookaheadError: the model or the call is one that Lookahead cannot serve.
        """
        return self._generate(
            model, input_ids, streamer=None, extra_criteria=[], namespace=namespace, reads=reads, **kwargs
        )

    @torch.no_grad()
    def _generate(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        *,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        streamer: Any,
        extra_criteria: list[Any],
        namespace: str,
        reads: Sequence[str],
        **model_kwargs: Any,
    ) -> Any:
        layout = self._checked(model, input_ids, generation_config, model_kwargs)
        check_namespaces(namespace, reads)
        trusted = self._probes.result(model, layout, drafts=self._drafts)
        pace = (
            self._pace(model, input_ids.shape[1])
            if self._drafts and trusted.mode is not ModelMode.PLAIN
            else None
        )
        stopping_criteria.extend(extra_criteria)
        emission = Emission(
            input_ids,
            max_length=stopping_criteria.max_length or generation_config.max_length,
            process=logits_processor,
            is_finished=stopping_criteria,
            do_sample=generation_config.do_sample,
            publish=None if streamer is None else streamer.put,
            publish_first=streamers_come_first(),
            keep_scores=generation_config.return_dict_in_generate and generation_config.output_scores,
            keep_logits=generation_config.return_dict_in_generate and generation_config.output_logits,
        )
        step_model = self._step_model(
            model, layout, trusted, input_ids, generation_config, model_kwargs, emission.remaining, pace
        )
        prompt = _unpadded(input_ids, model_kwargs)
        drafter = self._drafter(model, step_model, prompt, pace, namespace, reads, trusted.mode)
        self._decode(step_model, drafter, emission, prompt)
        if streamer is not None:
            streamer.end()
        if not generation_config.return_dict_in_generate:
            return emission.token_ids.clone()
        return _as_output(emission, step_model.returned_cache())

    def _checked(
        self, model: PreTrainedModel, input_ids: Tensor, generation_config: Any, model_kwargs: dict[str, Any]
    ) -> AttentionLayout:
        """Refuse what cannot be served; return how the model's layers see the past."""
        check_model(model)
        check_call(model, input_ids, generation_config)
        check_prompt(model, input_ids, model_kwargs.get("inputs_embeds"))
        cache = made_cache(model_kwargs)
        check_cache(cache)
        layout = attention_layout(model, cache)
        check_inputs(model_kwargs)
        check_memory(model, self.memory)
        return layout

    def _drafter(
        self,
        model: PreTrainedModel,
        step_model: TransformersStepModel | LibraryStepModel,
        prompt: list[int],
        pace: Pace | None,
        namespace: str,
        reads: Sequence[str],
        trusted: ModelMode,
    ) -> RequestDrafter | NoDrafter:
        if pace is None or isinstance(step_model, LibraryStepModel):
            return NoDrafter()
        measure = partial(
            step_times_for,
            model,
            step_model,
            prompt,
            most_nodes=pace.most_nodes,
            cache=StepTimesCache.of_user(),
        )
        config = self.config if trusted is ModelMode.TREE else replace(self.config, mode=DraftMode.SINGLE)
        return RequestDrafter(self.memory.store, config, pace, measure, namespace=namespace, reads=reads)

    def _step_model(
        self,
        model: PreTrainedModel,
        layout: AttentionLayout,
        trusted: ProbeResult,
        input_ids: Tensor,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        most_new_tokens: int,
        pace: Pace | None,
    ) -> TransformersStepModel | LibraryStepModel:
        if trusted.mode is ModelMode.PLAIN:
            return LibraryStepModel(model, input_ids, generation_config, model_kwargs)
        return TransformersStepModel(
            model,
            layout,
            input_ids,
            generation_config,
            model_kwargs,
            most_new_tokens=most_new_tokens,
            decoding_length=1 if pace is None else pace.most_nodes,
            prompt_logits=1 if pace is None else self.config.prompt_logits,
            verification=trusted.verification,
        )

    def _decode(
        self,
        step_model: TransformersStepModel | LibraryStepModel,
        drafter: RequestDrafter | NoDrafter,
        emission: Emission,
        prompt: list[int],
    ) -> None:
        """Run the loop; whatever happens in it, the prompt is forgotten and the counts are kept."""
        stats = GenerationStats()
        try:
            started = perf_counter()
            drafter.read(prompt)
            stats.draft_s += perf_counter() - started
            decode(step_model, drafter, emission, stats)
        finally:
            stats.recycled_tokens = drafter.recycled_tokens
            drafter.close()
            self.last_stats = stats
            self.stats.add(stats)

    def _pace(self, model: PreTrainedModel, prompt_length: int) -> Pace:
        """Return what is known about drafting for a model behind prompts of about this length."""
        paces = self._paces.setdefault(model, {})
        setting = (_setting(model), context_bucket(prompt_length))
        if setting not in paces:
            is_auto = self.config.decoding_length == "auto"
            most = self.config.most_nodes
            paces[setting] = Pace(most, BudgetPolicy(most) if is_auto else None)
        return paces[setting]

    @property
    def _drafts(self) -> bool:
        """Whether drafts are wanted at all."""
        return self.config.decoding_length != 1


def _setting(model: PreTrainedModel) -> tuple[object, ...]:
    """Return what a model's results and times depend on, beside its weights."""
    return (model.dtype, model.device, text_config(model)._attn_implementation)  # noqa: SLF001


@dataclass(frozen=True)
class NamespaceView:
    """A `Lookahead` for the requests of one namespace; `custom_generate=` takes it as well.

    Attributes:
        lookahead: whose memory, settings and stats it uses.
        namespace: the one its answers belong to.
        reads: further namespaces to draft from.
    """

    lookahead: Lookahead
    namespace: str
    reads: tuple[str, ...] = ()

    def generate(self, model: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        """Call `Lookahead.generate` in this namespace."""
        return self.lookahead.generate(model, *args, namespace=self.namespace, reads=self.reads, **kwargs)

    def __call__(self, model: PreTrainedModel, input_ids: Tensor, **kwargs: Any) -> Any:
        """Decode as `Lookahead` does, in this namespace."""
        return self.lookahead(model, input_ids, namespace=self.namespace, reads=self.reads, **kwargs)


def _taken_stop_strings(kwargs: dict[str, Any]) -> list[StopStringCriteria]:
    """Take stop strings and their tokenizer out of a call's arguments, as a criterion of our own.

    The library would make the same one, but hands a custom callable's call no tokenizer to make it with.
    """
    tokenizer = kwargs.pop("tokenizer", None)
    stop_strings = kwargs.pop("stop_strings", None)
    generation_config = kwargs.get("generation_config")
    if stop_strings is None and generation_config is not None and generation_config.stop_strings is not None:
        stop_strings = generation_config.stop_strings
        kwargs["generation_config"] = copy.deepcopy(generation_config)
        kwargs["generation_config"].stop_strings = None
    if stop_strings is None:
        return []
    if tokenizer is None:
        message = "stop_strings need the model's tokenizer: pass tokenizer=…"
        raise ValueError(message)
    return [StopStringCriteria(stop_strings=stop_strings, tokenizer=tokenizer)]


def _as_output(emission: Emission, cache: Any) -> GenerateDecoderOnlyOutput:
    fields: dict[str, Any] = {  # the library's annotations ask for narrower tensors than it makes
        "sequences": emission.token_ids.clone(),
        "scores": emission.scores,
        "logits": emission.logits,
    }
    return GenerateDecoderOnlyOutput(past_key_values=cache, **fields)


def _unpadded(input_ids: Tensor, model_kwargs: dict[str, Any]) -> list[int]:
    """Return the prompt's tokens without padding."""
    mask = model_kwargs.get("attention_mask")
    tokens = input_ids[0] if mask is None or mask.shape != input_ids.shape else input_ids[0][mask[0] != 0]
    prompt: list[int] = tokens.tolist()
    return prompt
