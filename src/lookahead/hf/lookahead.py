"""`Lookahead`: a generation mode of transformers, one line to turn on."""

import logging
import warnings
from functools import partial
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation.stopping_criteria import StopStringCriteria
from transformers.generation.utils import GenerateDecoderOnlyOutput

from lookahead.config import LookaheadConfig
from lookahead.decoding.emission import Emission
from lookahead.decoding.loop import decode
from lookahead.drafting.drafter import NoDrafter, RequestDrafter
from lookahead.drafting.store import DraftStore
from lookahead.drafting.token_trie import TokenTrie
from lookahead.hf.cache import ArenaCache
from lookahead.hf.checks import check_call, check_memory, check_model, check_prompt
from lookahead.hf.compat import AttentionLayout, attention_layout
from lookahead.hf.probe import ProbeResult, probe
from lookahead.hf.step_model import TransformersStepModel
from lookahead.stats import GenerationStats

logger = logging.getLogger("lookahead")


class Lookahead:
    """Generates what `model.generate` generates, several tokens a forward (arXiv 2312.12728).

    >>> la = Lookahead(LookaheadConfig(decoding_length=16))
    >>> ids = model.generate(**inputs, custom_generate=la, max_new_tokens=256)  # doctest: +SKIP

    Its draft memory lives from call to call: answers are remembered, prompts are forgotten with their
    request.

    Args:
        config: settings; the defaults suit most.
        memory: the draft memory; a fresh `TokenTrie` as the settings say if none is given.

    Attributes:
        config: the settings.
        memory: the draft memory.
        stats: counts and seconds of all calls since the last `reset_stats`.
        last_stats: those of the last call that ended.
    """

    def __init__(self, config: LookaheadConfig | None = None, *, memory: DraftStore | None = None) -> None:
        self.config = config or LookaheadConfig()
        self.memory: DraftStore = memory or TokenTrie(
            memory_nodes=self.config.memory_nodes,
            memory_bytes=self.config.memory_bytes,
            stop_words=self.config.stop_words,
        )
        self.stats = GenerationStats()
        self.last_stats = GenerationStats()
        self._vocabulary_size: int | None = None
        self._probes: WeakKeyDictionary[PreTrainedModel, ProbeResult] = WeakKeyDictionary()

    def reset_stats(self) -> None:
        """Begin counting anew."""
        self.stats = GenerationStats()
        self.last_stats = GenerationStats()

    def generate(self, model: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        """Call `model.generate(*args, **kwargs)` with Lookahead; returns what it returns.

        Beyond `custom_generate=self` this makes `streamer` and `stop_strings` (with `tokenizer`) work,
        which the library does not hand to a custom callable.

        Raises:
            LookaheadError: the model or the call is one that Lookahead cannot serve; the message says why.
            ValueError: as `model.generate` does.
        """
        check_model(model)
        stop_strings = kwargs.pop("stop_strings", None)
        tokenizer = kwargs.pop("tokenizer", None)
        extra_criteria = []
        if stop_strings is not None:
            if tokenizer is None:
                message = "stop_strings need the model's tokenizer: pass tokenizer=…"
                raise ValueError(message)
            extra_criteria.append(StopStringCriteria(stop_strings=stop_strings, tokenizer=tokenizer))
        mode = partial(self._generate, streamer=kwargs.get("streamer"), extra_criteria=extra_criteria)
        untyped: Any = model
        return untyped.generate(*args, custom_generate=mode, **kwargs)

    def __call__(self, model: PreTrainedModel, input_ids: Tensor, **kwargs: Any) -> Any:
        """Decode as `generate` hands over: this is what `custom_generate=` calls.

        Args:
            model: the model that `generate` was called on.
            input_ids: int64 [1, L], the prompt.
            **kwargs: logits_processor, stopping_criteria, generation_config and the model's own inputs.

        Returns:
            int64 [1, L + new tokens], or a `GenerateDecoderOnlyOutput` where a dict was asked for.

        Raises:
            LookaheadError: the model or the call is one that Lookahead cannot serve.
        """
        return self._generate(model, input_ids, streamer=None, extra_criteria=[], **kwargs)

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
        **model_kwargs: Any,
    ) -> Any:
        layout = self._checked(model, input_ids, generation_config, model_kwargs)
        decoding_length = self.config.decoding_length if self._may_branch(model, layout) else 1
        stopping_criteria.extend(extra_criteria)
        emission = Emission(
            input_ids,
            max_length=generation_config.max_length,
            process=logits_processor,
            is_finished=stopping_criteria,
            do_sample=generation_config.do_sample,
            publish=None if streamer is None else streamer.put,
            keep_scores=generation_config.return_dict_in_generate and generation_config.output_scores,
            keep_logits=generation_config.return_dict_in_generate and generation_config.output_logits,
        )
        step_model = TransformersStepModel(
            model,
            layout,
            input_ids,
            generation_config,
            model_kwargs,
            most_new_tokens=emission.remaining,
            decoding_length=decoding_length,
        )
        self._decode(step_model, emission, decoding_length, _unpadded(input_ids, model_kwargs))
        if streamer is not None:
            streamer.end()
        if not generation_config.return_dict_in_generate:
            return emission.token_ids.clone()
        return _as_output(emission, step_model.cache)

    def _checked(
        self, model: PreTrainedModel, input_ids: Tensor, generation_config: Any, model_kwargs: dict[str, Any]
    ) -> AttentionLayout:
        """Refuse what cannot be served; return how the model's layers see the past."""
        check_model(model)
        check_call(input_ids, generation_config, model_kwargs)
        check_prompt(model, input_ids)
        layout = attention_layout(model, model_kwargs.get("past_key_values"))
        self._vocabulary_size = check_memory(model, self._vocabulary_size)
        return layout

    def _decode(
        self, step_model: TransformersStepModel, emission: Emission, decoding_length: int, prompt: list[int]
    ) -> None:
        """Run the loop; whatever happens in it, the prompt is forgotten and the counts are kept."""
        stats = GenerationStats()
        started = perf_counter()
        drafter = (
            NoDrafter() if decoding_length == 1 else RequestDrafter(self.memory, self.config, prompt=prompt)
        )
        stats.draft_s += perf_counter() - started
        try:
            decode(step_model, drafter, emission, stats)
        finally:
            drafter.close()
            self.last_stats = stats
            self.stats.add(stats)

    def _may_branch(self, model: PreTrainedModel, layout: AttentionLayout) -> bool:
        """Return whether drafts are worth making; on a model's first use this asks the probe."""
        if self.config.decoding_length == 1:
            return False
        if model not in self._probes:
            result = probe(model, layout)
            self._probes[model] = result
            if not result.branches:
                message = f"{type(model).__name__} is decoded in plain steps, without drafts: {result.reason}"
                warnings.warn(message, stacklevel=2)
        return self._probes[model].branches


def _as_output(emission: Emission, cache: ArenaCache) -> GenerateDecoderOnlyOutput:
    cache.refresh()
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
