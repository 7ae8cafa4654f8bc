"""Answer rows in batches: the calls, how they are measured, and a run for each size.

Batches are never streamed: with a streamer their rows would have to wait for each other.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lookahead.bench.methods.method import Method
from lookahead.bench.run.cases import Case
from lookahead.bench.run.measuring import Clock, Run, greedy
from lookahead.bench.run.results import BenchmarkResult
from lookahead.bench.run.runner import WARM_UP_PROMPT, WARM_UP_TOKENS
from lookahead.hf.models.loading import encode_prompt


def batch_cases(cases: Sequence[Case], size: int, pad_token: int) -> list[Case]:
    """Return the cases of rows as full batches of one size, padded on the left."""
    starts = range(0, len(cases) - size + 1, size)
    return [_batch(cases[start : start + size], pad_token) for start in starts]


def _batch(cases: Sequence[Case], pad_token: int) -> Case:
    width = max(case.width for case in cases)
    fillers = {"input_ids": pad_token, "attention_mask": 0}
    inputs = {
        name: torch.cat([pad(case.inputs[name], (width - case.width, 0), value=filler) for case in cases])
        for name, filler in fillers.items()
    }
    row_id = "+".join(str(case.row_id) for case in cases)
    return Case(row_id=row_id, category=f"batch {len(cases)}", inputs=inputs)


def measure_batch(
    method: Method,
    model: PreTrainedModel,
    inputs: Mapping[str, torch.Tensor],
    *,
    settings: Mapping[str, Any],
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> Run:
    """Let the method answer a batch once, and measure the call as a whole."""
    torch.manual_seed(seed)
    started_at = clock()
    output = method.generate(model, inputs, settings=settings, streamer=None)
    answers = _answers(model, output.sequences[:, inputs["input_ids"].shape[1] :])
    total_s = clock() - started_at
    decode_tokens = sum(len(answer) - 1 for answer in answers)
    return Run(
        answers=answers,
        total_s=total_s,
        decode_tokens=decode_tokens,
        decode_s=0.0,
        steps=decode_tokens if output.steps is None else output.steps,
    )


def _answers(model: PreTrainedModel, answers: torch.Tensor) -> tuple[tuple[int, ...], ...]:
    """Return each row's answer without the padding after its end."""
    if len(answers) == 1:
        return (tuple(answers[0].tolist()),)
    given = getattr(model.generation_config, "eos_token_id", None)
    ends = set(given) if isinstance(given, list) else {given}
    return tuple(_until_end(answer, ends) for answer in answers.tolist())


def _until_end(answer: list[int], ends: set[int | None]) -> tuple[int, ...]:
    end = next((index for index, token in enumerate(answer) if token in ends), len(answer))
    return tuple(answer[: end + 1])


def warm_up_batch(
    methods: Sequence[Method], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, size: int
) -> None:
    """Let each method answer a batch once, unmeasured, to set everything up; then empty its memory."""
    inputs = encode_prompt(tokenizer, WARM_UP_PROMPT, model)
    batch = {name: tensor.repeat(size, 1) for name, tensor in inputs.items()}
    for method in methods:
        measure_batch(method, model, batch, settings=greedy(WARM_UP_TOKENS))
        method.forget()


def joined(parts: Sequence[BenchmarkResult]) -> BenchmarkResult:
    """Return the results of all sizes as those of one benchmark."""
    whole = replace(parts[0])
    for part in parts[1:]:
        whole = replace(
            whole,
            results=whole.results + part.results,
            skipped=whole.skipped + part.skipped,
            failed=whole.failed + part.failed,
            interrupted=part.interrupted,
            resumed_prompts=whole.resumed_prompts + part.resumed_prompts,
        )
    return whole
