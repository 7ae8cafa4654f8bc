"""The generation mode itself: checks a call that `generate` has prepared, and decodes it."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lookahead.config import DraftMode, LookaheadConfig
from lookahead.decoding import loop
from lookahead.decoding.sampling.margins import smallest_of
from lookahead.decoding.sampling.state import GenerationState
from lookahead.drafting.drafter import BatchDrafter, NoDrafter, RequestDrafter
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.drafting.store import DEFAULT_NAMESPACE
from lookahead.hf.cache.callers_cache import is_callers_cache
from lookahead.hf.compat.call import GenerateCall, namespaces_of_rows
from lookahead.hf.compat.fingerprint.watch import ModelWatch
from lookahead.hf.compat.layout import AttentionLayout, cache_of
from lookahead.hf.generate.checks import check_memory, checked_layout
from lookahead.hf.generate.row_groups import output_of, row_groups_for, token_ids_of
from lookahead.hf.steps.call_steps import CallStepModel
from lookahead.hf.steps.cuda_graphs import CapturedModels
from lookahead.hf.steps.library_steps import LibraryStepModel
from lookahead.hf.steps.step_inputs import StepInputs
from lookahead.hf.steps.step_model import OnProgress
from lookahead.hf.steps.verification import Verification, VerificationMode
from lookahead.hf.support.model_profile import ModelProfiles
from lookahead.stats import GenerationStats

OnStats = Callable[[GenerationStats], None]


@dataclass(frozen=True)
class CheckedCall:
    """A call that can be served.

    Attributes:
        generate_call: The call.
        layout: How the model's layers see the past.
        memory: The draft memory.
        record: Called with the call's counts and times, also if it fails.
        on_stats: As `record`; the caller's.
        on_progress: Called while the prompts are read.
    """

    generate_call: GenerateCall
    layout: AttentionLayout
    memory: DraftMemory
    record: OnStats
    on_stats: OnStats | None = None
    on_progress: OnProgress | None = None


class LookaheadMode:
    """Decodes calls that `generate` has prepared.

    Args:
        config: The settings.
        profiles: What is known about models, with these settings; nothing yet if not given.
    """

    def __init__(self, config: LookaheadConfig, profiles: ModelProfiles | None = None) -> None:
        self._config = config
        self._profiles = ModelProfiles(config) if profiles is None else profiles
        self._graphs = CapturedModels() if config.cuda_graphs else None

    def prepare(
        self,
        memory: DraftMemory,
        record: OnStats,
        model: PreTrainedModel,
        input_ids: Tensor,
        /,
        *,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        streamer: Any = None,
        namespace: str | Sequence[str] = DEFAULT_NAMESPACE,
        reads: Sequence[str] = (),
        on_stats: OnStats | None = None,
        on_progress: OnProgress | None = None,
        **model_kwargs: Any,
    ) -> CheckedCall:
        """Check a call, before anything is generated or learned.

        The call draws from `memory`, and `record` is called with its counts and times, also if it fails.
        `Lookahead.__call__` names the other arguments.

        Raises:
            LookaheadError: Lookahead cannot serve the model or the call.
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
        check_memory(model, memory)
        return CheckedCall(generate_call, layout, memory, record, on_stats, on_progress)

    @torch.no_grad()
    def decode(self, checked: CheckedCall, state: GenerationState | None = None) -> Any:
        """Decode a checked call; return what `generate` returns.

        Args:
            checked: The call.
            state: Chooses the tokens of the call's only row; None for one as `generate` would choose them.
        """
        call = checked.generate_call
        config = call.generation_config
        watch = self._profiles.watch(call.model)  # begins before the model is looked at: nothing is missed
        verification, step_inputs = self._profiles.of_call(call, checked.layout)
        has_callers_cache = is_callers_cache(cache_of(call.model_kwargs))  # its rows must stay equally long
        lockstep = has_callers_cache or not verification.rows_may_differ
        states = row_groups_for(call, lockstep=lockstep) if state is None else [state]
        drafter: BatchDrafter | NoDrafter = NoDrafter()
        step_model: CallStepModel | LibraryStepModel
        if verification.mode is VerificationMode.PLAIN:
            step_model = LibraryStepModel(
                call.model, call.input_ids, config, call.model_kwargs, lock=self._profiles.lock(call.model)
            )
        else:
            step_model = self._step_model(checked, verification, step_inputs, states[0].remaining, watch)
            drafter = self._drafter(checked, step_model, lockstep=len(states) < len(call.input_ids))
        stats = self._run(checked, step_model, drafter, states)
        if call.streamer is not None:
            call.streamer.end()
        if config.return_dict_in_generate:
            return output_of(states[0], step_model.returned_cache(), stats)
        if has_callers_cache:
            step_model.returned_cache()
        return token_ids_of(states, config)

    def _step_model(
        self,
        checked: CheckedCall,
        verification: Verification,
        step_inputs: StepInputs,
        max_new_tokens: int,
        watch: ModelWatch,
    ) -> CallStepModel:
        call = checked.generate_call
        return CallStepModel(
            call.model,
            self._profiles.traits(call.model),
            checked.layout,
            call.input_ids,
            call.generation_config,
            call.model_kwargs,
            verification=verification,
            max_new_tokens=max_new_tokens,
            max_nodes=self._profiles.max_nodes(verification, len(call.input_ids)),
            max_nodes_alone=self._profiles.max_nodes(verification, 1),
            recycle_prompt_tokens=self._config.recycle_prompt_tokens,
            step_inputs=step_inputs,
            graphs=self._graphs,
            lock=self._profiles.lock(call.model),
            watch=watch,
            runs_callers_code=call.runs_callers_code,
            on_progress=checked.on_progress,
        )

    def _drafter(self, checked: CheckedCall, step_model: CallStepModel, *, lockstep: bool) -> BatchDrafter:
        call = checked.generate_call
        controller = self._profiles.controller(call.model, step_model.verification, step_model.runner_name)
        return BatchDrafter(
            controller,
            recycles=checked.memory.store.recycles,
            lockstep=lockstep,
            is_ragged=step_model.is_ragged,
        )

    def _requests(self, checked: CheckedCall, mode: VerificationMode) -> list[RequestDrafter]:
        """Return a new request for each row."""
        call = checked.generate_call
        return [
            RequestDrafter(
                checked.memory.store,
                branch_length=self._config.branch_length,
                mode=self._config.draft_mode if mode is VerificationMode.TREE else DraftMode.SINGLE,
                namespace=namespace,
                reads=call.reads,
            )
            for namespace in call.namespaces
        ]

    def _run(
        self,
        checked: CheckedCall,
        step_model: CallStepModel | LibraryStepModel,
        drafter: BatchDrafter | NoDrafter,
        states: Sequence[GenerationState],
    ) -> GenerationStats:
        """Run the loop; even if it raises, the prompts are forgotten and the stats are recorded."""
        stats = GenerationStats()
        try:
            if isinstance(drafter, BatchDrafter) and isinstance(step_model, CallStepModel):
                started = perf_counter()
                requests = self._requests(checked, step_model.verification.mode)
                for row, prompt in enumerate(checked.generate_call.prompts):
                    drafter.add(row, requests[row], prompt)
                stats.draft_s += perf_counter() - started
            loop.decode(step_model, drafter, states, stats)
        finally:
            with ExitStack() as ending:  # if one of them raises, the others still run
                if checked.on_stats is not None:
                    ending.callback(checked.on_stats, stats)
                ending.callback(checked.record, stats)
                ending.callback(step_model.close)
                ending.callback(drafter.close)
                ending.callback(drafter.close)  # a Ctrl-C may come while it closes
                stats.recycled_tokens = drafter.recycled_tokens
                stats.smallest_margin = smallest_of([state.margin.value for state in states])
                if isinstance(step_model, CallStepModel):
                    stats.replay_speedup = step_model.replay_speedup
        return stats
