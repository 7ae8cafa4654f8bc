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
from lookahead.decoding.sampling.margins import smallest_of
from lookahead.decoding.sampling.state import GenerationState
from lookahead.drafting.budget.controller import BudgetController
from lookahead.drafting.drafter import BatchDrafter, NoDrafter, RequestDrafter
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.drafting.store import DEFAULT_NAMESPACE
from lookahead.hf.cache.callers_cache import is_callers
from lookahead.hf.compat.call import GenerateCall, namespaces_of_rows
from lookahead.hf.compat.layout import AttentionLayout, made_cache
from lookahead.hf.generate.checks import check_memory, checked_layout
from lookahead.hf.generate.row_groups import output_of, row_groups_for, token_ids_of
from lookahead.hf.steps.cuda_graphs import CapturedModels
from lookahead.hf.steps.library_steps import LibraryStepModel
from lookahead.hf.steps.step_inputs import StepInputs
from lookahead.hf.steps.step_model import TransformersStepModel
from lookahead.hf.steps.step_times import StepTimesCache, step_times_for
from lookahead.hf.steps.verification import ModelMode, Verification
from lookahead.hf.support.model_profile import ModelProfiles
from lookahead.stats import GenerationStats

OnStats = Callable[[GenerationStats], None]


@dataclass(frozen=True)
class CheckedCall:
    """A call that can be served.

    Attributes:
        generate_call: the call.
        layout: how the model's layers see the past.
        memory: what is drafted from.
        on_stats: called with the call's counts and times when it ends.
    """

    generate_call: GenerateCall
    layout: AttentionLayout
    memory: DraftMemory
    on_stats: OnStats | None = None


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
        self._knowledge = ModelProfiles(config)
        self._captured = CapturedModels() if config.cuda_graphs else None

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
        on_stats: OnStats | None = None,
        **model_kwargs: Any,
    ) -> CheckedCall:
        """Check what `generate` hands over, before anything is generated or learned; see `__call__`.

        Raises:
            LookaheadError: the model or the call is one that Lookahead cannot serve.
        """
        generate_call = GenerateCall(
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
        layout = checked_layout(generate_call)
        memory = self._memory()
        check_memory(model, memory)
        return CheckedCall(generate_call, layout, memory, on_stats)

    @torch.no_grad()
    def decode(self, call: CheckedCall) -> Any:
        """Decode what `prepare` has checked; return what `generate` returns."""
        generate_call, config = call.generate_call, call.generate_call.generation_config
        verification, step_inputs = self._knowledge.of_call(generate_call, call.layout)
        has_callers_cache = is_callers(
            made_cache(generate_call.model_kwargs)
        )  # brought up to date in all rows
        lockstep = has_callers_cache or not verification.rows_may_differ
        states = row_groups_for(generate_call, lockstep=lockstep)
        drafter: BatchDrafter | NoDrafter = NoDrafter()
        if verification.mode is ModelMode.PLAIN:
            step_model: TransformersStepModel | LibraryStepModel = LibraryStepModel(
                generate_call.model,
                generate_call.input_ids,
                config,
                generate_call.model_kwargs,
                lock=self._knowledge.lock(generate_call.model),
            )
        else:
            pace = self._knowledge.pace(generate_call.model, generate_call.input_ids, verification)
            step_model = self._step_model(call, verification, step_inputs, pace, states[0].remaining)
            drafter = self._drafter(call, step_model, pace, verification, len(states))
        stats = self._run(call, step_model, drafter, states)
        if generate_call.streamer is not None:
            generate_call.streamer.end()
        if config.return_dict_in_generate:
            return output_of(states[0], step_model.returned_cache(), stats)
        if has_callers_cache:
            step_model.returned_cache()
        return token_ids_of(states, config)

    def _step_model(
        self,
        call: CheckedCall,
        verification: Verification,
        step_inputs: StepInputs,
        pace: BudgetController,
        max_new_tokens: int,
    ) -> TransformersStepModel:
        captured = None
        if self._captured is not None:
            captured = self._captured.of_call(call.generate_call.model, call.layout, verification)
        return TransformersStepModel(
            call.generate_call.model,
            call.layout,
            call.generate_call.input_ids,
            call.generate_call.generation_config,
            call.generate_call.model_kwargs,
            max_new_tokens=max_new_tokens,
            decoding_length=pace.max_nodes,
            recycle_prompt_tokens=self._config.recycle_prompt_tokens,
            verification=verification,
            step_inputs=step_inputs,
            bias=self._knowledge.position_bias(call.generate_call.model),
            captured=captured,
            lock=self._knowledge.lock(call.generate_call.model),
        )

    def _drafter(
        self,
        call: CheckedCall,
        step_model: TransformersStepModel,
        pace: BudgetController,
        verification: Verification,
        emission_count: int,
    ) -> BatchDrafter:
        generate_call, store = call.generate_call, call.memory.store
        requests = [
            RequestDrafter(
                store,
                branch_length=self._config.branch_length,
                mode=self._config.draft_mode if verification.mode is ModelMode.TREE else DraftMode.SINGLE,
                namespace=namespace,
                reads=generate_call.reads,
            )
            for namespace in generate_call.namespaces
        ]
        prompts = generate_call.prompts
        measure = partial(
            step_times_for,
            generate_call.model,
            step_model,
            prompts,
            max_nodes=pace.max_nodes,
            cache=StepTimesCache.of_user(),
        )
        return BatchDrafter(
            requests,
            pace,
            recycles=store.recycles,
            lockstep=emission_count < len(prompts),
            measure=measure,
        )

    def _run(
        self,
        call: CheckedCall,
        step_model: TransformersStepModel | LibraryStepModel,
        drafter: BatchDrafter | NoDrafter,
        states: Sequence[GenerationState],
    ) -> GenerationStats:
        """Run the loop; whatever happens in it, the prompts are forgotten and the counts are kept."""
        stats = GenerationStats()
        try:
            started = perf_counter()
            drafter.read(call.generate_call.prompts)
            stats.draft_s += perf_counter() - started
            loop.decode(step_model, drafter, states, stats)
        finally:
            with ExitStack() as ending:  # whatever one of them raises, the others are done
                if call.on_stats is not None:
                    ending.callback(call.on_stats, stats)
                ending.callback(self._record, stats)
                ending.callback(step_model.close)
                ending.callback(drafter.close)
                stats.recycled_tokens = drafter.recycled_tokens
                stats.smallest_margin = smallest_of([state.margin.value for state in states])
        return stats
