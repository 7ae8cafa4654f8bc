"""The host's part of a captured step: all but the replay of its graph, for a greedy answer of one row."""

import statistics
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from transformers import PreTrainedModel

from lookahead.backends.cuda.graphs import Verified
from lookahead.bench.profile.generation import DECODING_LENGTH, PARTS, known_pieces
from lookahead.config import LookaheadConfig
from lookahead.decoding import loop
from lookahead.decoding.sampling.choice import argmax
from lookahead.decoding.sampling.state import GenerationState
from lookahead.drafting.budget.controller import BudgetController
from lookahead.drafting.drafter import BatchDrafter, RequestDrafter
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.hf.compat.config import text_config
from lookahead.hf.compat.fingerprint.watch import ModelWatch
from lookahead.hf.compat.layout import attention_layout, fresh_cache
from lookahead.hf.compat.traits import ModelTraits
from lookahead.hf.steps.call_steps import CallStepModel
from lookahead.hf.steps.cuda_graphs import CapturedModels
from lookahead.hf.support.probe import probe
from lookahead.stats import GenerationStats

_NOT_CAPTURED = "no step of it can be captured; `lookahead check` on a CUDA device says why"
Clock = Callable[[], float]


class PreparedReplays:
    """Captures that repeat steps by doing them again and note the results, or return the noted results.

    Args:
        clock: Returns the time in seconds.

    Attributes:
        replays: Replays so far.
        seconds: Seconds of them.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._are_prepared = False
        self._noted: list[list[Verified]] = []
        self.replays = 0
        self.seconds = 0.0

    def begin(self, *, are_prepared: bool) -> None:
        """Begin an answer, whose replays return what was noted of the last one, or note anew."""
        self._are_prepared = are_prepared
        if not are_prepared:
            for noted in self._noted:
                noted.clear()

    def __call__(self, step: Callable[[], Verified]) -> Callable[[], Verified]:
        """Return what repeats the step."""
        noted: list[Verified] = []
        self._noted.append(noted)

        def replay() -> Verified:
            begin = self._clock()
            if self._are_prepared and noted:
                found = noted.pop(0)
            else:
                done = step()
                found = Verified(done.logits, done.summary.clone())
            noted.append(found)  # if there are more steps than were noted, they begin again
            self.replays += 1
            self.seconds += self._clock() - begin
            return found

        return replay

    def forget(self) -> None:
        """Do nothing: captured steps share nothing."""


@dataclass(frozen=True)
class HostStep:
    """A step outside its replay.

    Attributes:
        seconds: All of it.
        parts: Seconds by the names of the stats' fields.
        nodes: Nodes verified.
        tokens: Tokens emitted.
    """

    seconds: float
    parts: dict[str, float]
    nodes: int
    tokens: int


@torch.no_grad()
def profile_host(
    model: PreTrainedModel, prompt: Sequence[int], *, new_tokens: int, clock: Clock = perf_counter
) -> dict[str, Any]:
    """Return the median seconds of a captured step outside its replay, and what they were spent on.

    An answer is decoded three times: to capture the shapes, to note what replays return, and with replays
    that return it. Drafts are full and accepted in part, as in `profile_decoding`.

    Args:
        model: A decoder-only model.
        prompt: The context.
        new_tokens: Tokens of the answer.
        clock: Returns the time in seconds.

    Returns:
        The figures; `steps` is 0 and `reason` says why where steps are not captured.
    """
    replays, answer = PreparedReplays(clock), list[int]()
    captured, steps = CapturedModels(lambda _device: replays), list[HostStep]()
    for are_prepared in (False, False, True):
        replays.begin(are_prepared=are_prepared)
        with closing(_step_model(model, prompt, new_tokens, captured)) as step_model:
            if not step_model.is_captured:
                return {"steps": 0, "reason": _NOT_CAPTURED}
            known = known_pieces(answer, text_config(model).vocab_size)
            answer, steps = _decode(step_model, prompt, known, new_tokens, replays, clock)
    if not steps:
        return {"steps": 0, "reason": f"no shape of a step occurs twice in {new_tokens} tokens"}
    return {
        "steps": len(steps),
        "reason": "",
        "seconds": statistics.median(step.seconds for step in steps),
        "seconds_per_part": {
            part: statistics.median(step.parts[part] for step in steps) for part in steps[0].parts
        },
        "nodes_per_step": statistics.fmean(step.nodes for step in steps),
        "tokens_per_step": statistics.fmean(step.tokens for step in steps),
    }


def _step_model(
    model: PreTrainedModel, prompt: Sequence[int], new_tokens: int, captured: CapturedModels
) -> CallStepModel:
    ids = torch.tensor([list(prompt)], device=model.device)
    inputs = {
        "attention_mask": None,
        "position_ids": torch.arange(len(prompt), device=model.device)[None],
        "use_cache": True,
    }
    return CallStepModel(
        model,
        ModelTraits.of(model),
        attention_layout(model, fresh_cache(model)),
        ids,
        model.generation_config,
        inputs,
        verification=probe(model, tries_compiled=False).verification,
        max_new_tokens=new_tokens,
        max_nodes=DECODING_LENGTH,
        graphs=captured,
        watch=ModelWatch(model),
        runs_callers_code=False,
    )


def _decode(
    step_model: CallStepModel,
    prompt: Sequence[int],
    known: Sequence[Sequence[int]],
    new_tokens: int,
    replays: PreparedReplays,
    clock: Clock,
) -> tuple[list[int], list[HostStep]]:
    """Decode an answer; return its tokens, and the steps that were replays."""
    memory = DraftMemory()
    memory.warm(known)
    drafter = BatchDrafter(BudgetController(lambda _rows: DECODING_LENGTH), recycles=memory.store.recycles)
    request = RequestDrafter(memory.store, branch_length=LookaheadConfig().branch_length)
    ids = torch.tensor([list(prompt)], device=step_model.model.device)
    state = GenerationState(
        ids,
        max_length=len(prompt) + new_tokens,
        process=lambda _ids, scores: scores,
        is_finished=lambda ids, _scores: torch.zeros(len(ids), dtype=torch.bool, device=ids.device),
        choose=argmax,
        ends=frozenset(),
    )
    stats, steps, seen = GenerationStats(), list[HostStep](), replays.replays
    with closing(drafter):
        drafter.add(0, request, prompt)
        loop.emit_first_tokens(drafter, [state], step_model.prefill(), stats)
        while not state.finished:
            replay_s, parts = replays.seconds, {part: getattr(stats, part) for part in PARTS}
            begin = clock()
            accepted = loop.step(step_model, drafter, [state], stats)
            seconds = clock() - begin
            if replays.replays == seen + 1:
                replay_s = replays.seconds - replay_s
                spent = {part: getattr(stats, part) - before for part, before in parts.items()}
                spent["model_s"] -= replay_s
                tokens = len(accepted[0].tokens)
                steps.append(HostStep(seconds - replay_s, spent, accepted[0].nodes, tokens))
            seen = replays.replays
    return state.token_ids[0, len(prompt) :].tolist(), steps
