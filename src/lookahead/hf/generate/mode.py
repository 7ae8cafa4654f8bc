"""The generation mode itself: from what `generate` hands over to what it returns."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lookahead.config import DraftMode, LookaheadConfig
from lookahead.decoding import loop
from lookahead.decoding.sampling.emission import Emission
from lookahead.decoding.sampling.margins import smallest_of
from lookahead.drafting.budget.controller import Pace
from lookahead.drafting.drafter import BatchDrafter, NoDrafter, RequestDrafter
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.drafting.store import DEFAULT_NAMESPACE
from lookahead.hf.cache.callers_cache import is_callers
from lookahead.hf.compat.call import Handover, namespaces_of_rows
from lookahead.hf.compat.layout import AttentionLayout, made_cache
from lookahead.hf.generate.checks import check_memory, checked_layout
from lookahead.hf.generate.emissions import emissions_for, output_of, token_ids_of
from lookahead.hf.steps.cuda_graphs import CapturedModels
from lookahead.hf.steps.library_steps import LibraryStepModel
from lookahead.hf.steps.step_inputs import StepInputs
from lookahead.hf.steps.step_model import TransformersStepModel
from lookahead.hf.steps.step_times import StepTimesCache, step_times_for
from lookahead.hf.steps.verification import ModelMode, Verification
from lookahead.hf.support.model_profile import ModelKnowledge
from lookahead.stats import GenerationStats


@dataclass(frozen=True)
class CheckedCall:
    """A call that can be served.

    Attributes:
        handover: the call.
        layout: how the model's layers see the past.
        memory: what is drafted from.
    """

    handover: Handover
    layout: AttentionLayout
    memory: DraftMemory


class LookaheadMode:
    """Decodes what `generate` has prepared.

    Args:
        config: the settings.
        memory: returns the draft memory of the next call.
        record: is told the counts and seconds of each call that ended, whatever ended it.
    """

    def __init__(
        self,
        config: LookaheadConfig,
        memory: Callable[[], DraftMemory],
        record: Callable[[GenerationStats], None],
    ) -> None:
        self._config = config
        self._memory = memory
        self._record = record
        self._knowledge = ModelKnowledge(config)
        self._captured = CapturedModels() if config.captured_step else None

    def prepare(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        *,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        streamer: Any = None,
        namespace: str | Sequence[str] = DEFAULT_NAMESPACE,
        reads: Sequence[str] = (),
        **model_kwargs: Any,
    ) -> CheckedCall:
        """Check what `generate` hands over, before anything is generated or learned; see `__call__`.

        Raises:
            LookaheadError: the model or the call is one that Lookahead cannot serve.
        """
        handover = Handover(
            model,
            input_ids,
            logits_processor,
            stopping_criteria,
            generation_config,
            streamer,
            namespaces_of_rows(namespace, reads, len(input_ids)),
            tuple(reads),
            model_kwargs,
        )
        layout = checked_layout(handover)
        memory = self._memory()
        check_memory(model, memory)
        return CheckedCall(handover, layout, memory)

    @torch.no_grad()
    def decode(self, call: CheckedCall) -> Any:
        """Decode what `prepare` has checked; return what `generate` returns."""
        handover, config = call.handover, call.handover.generation_config
        verification, step_inputs = self._knowledge.of_call(handover, call.layout)
        has_callers_cache = is_callers(made_cache(handover.model_kwargs))  # brought up to date in all rows
        they_wait = has_callers_cache or not verification.rows_may_differ
        emissions = emissions_for(handover, they_wait=they_wait)
        drafter: BatchDrafter | NoDrafter = NoDrafter()
        if verification.mode is ModelMode.PLAIN:
            step_model: TransformersStepModel | LibraryStepModel = LibraryStepModel(
                handover.model,
                handover.input_ids,
                config,
                handover.model_kwargs,
                lock=self._knowledge.lock(handover.model),
            )
        else:
            pace = self._knowledge.pace(handover.model, handover.input_ids, verification)
            step_model = self._step_model(call, verification, step_inputs, pace, emissions[0].remaining)
            drafter = self._drafter(call, step_model, pace, verification, len(emissions))
        stats = self._run(step_model, drafter, emissions, handover.prompts)
        if handover.streamer is not None:
            handover.streamer.end()
        if config.return_dict_in_generate:
            return output_of(emissions[0], step_model.returned_cache(), stats)
        if has_callers_cache:
            step_model.returned_cache()
        return token_ids_of(emissions, config)

    def _step_model(
        self,
        call: CheckedCall,
        verification: Verification,
        step_inputs: StepInputs,
        pace: Pace,
        most_new_tokens: int,
    ) -> TransformersStepModel:
        captured = None
        if self._captured is not None:
            captured = self._captured.of_call(call.handover.model, call.layout, verification)
        return TransformersStepModel(
            call.handover.model,
            call.layout,
            call.handover.input_ids,
            call.handover.generation_config,
            call.handover.model_kwargs,
            most_new_tokens=most_new_tokens,
            decoding_length=pace.most_nodes,
            prompt_logits=self._config.prompt_logits,
            verification=verification,
            step_inputs=step_inputs,
            bias=self._knowledge.position_bias(call.handover.model),
            captured=captured,
            lock=self._knowledge.lock(call.handover.model),
        )

    def _drafter(
        self,
        call: CheckedCall,
        step_model: TransformersStepModel,
        pace: Pace,
        verification: Verification,
        emission_count: int,
    ) -> BatchDrafter:
        handover, store = call.handover, call.memory.store
        requests = [
            RequestDrafter(
                store,
                branch_length=self._config.branch_length,
                mode=self._config.mode if verification.mode is ModelMode.TREE else DraftMode.SINGLE,
                namespace=namespace,
                reads=handover.reads,
            )
            for namespace in handover.namespaces
        ]
        prompts = handover.prompts
        measure = partial(
            step_times_for,
            handover.model,
            step_model,
            prompts,
            most_nodes=pace.most_nodes,
            cache=StepTimesCache.of_user(),
        )
        return BatchDrafter(
            requests,
            pace,
            recycles=store.recycles,
            they_wait=emission_count < len(prompts),
            measure=measure,
        )

    def _run(
        self,
        step_model: TransformersStepModel | LibraryStepModel,
        drafter: BatchDrafter | NoDrafter,
        emissions: Sequence[Emission],
        prompts: Sequence[Sequence[int]],
    ) -> GenerationStats:
        """Run the loop; whatever happens in it, the prompts are forgotten and the counts are kept."""
        stats = GenerationStats()
        try:
            started = perf_counter()
            drafter.read(prompts)
            stats.draft_s += perf_counter() - started
            loop.decode(step_model, drafter, emissions, stats)
        finally:
            with ExitStack() as ending:  # whatever one of them raises, the others are done
                ending.callback(self._record, stats)
                ending.callback(step_model.close)
                ending.callback(drafter.close)
                stats.recycled_tokens = drafter.recycled_tokens
                stats.smallest_margin = smallest_of([emission.margin.value for emission in emissions])
        return stats
