"""Measure one call: seconds and tokens, of prefill and of decoding, and the wait for each token."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from lookahead.bench.methods.method import Method, Output
from lookahead.bench.run.peak_memory import MemoryMeter

Clock = Callable[[], float]

_NO_METER = MemoryMeter()


class Listener(Protocol):
    """Receives the tokens as they come, such as a `TextStreamer`."""

    def put(self, value: torch.Tensor) -> None:
        """Receive the prompt, then each piece of the answer."""

    def end(self) -> None:
        """Receive the end of the answer."""


class TimingStreamer(BaseStreamer):
    """Records when each piece of the answer came, and its number of tokens.

    Attributes:
        pieces: Time and number of tokens of each piece of the answer.
    """

    def __init__(self, listener: Listener | None = None, clock: Clock = time.perf_counter) -> None:
        self.pieces: list[tuple[float, int]] = []
        self._listener = listener
        self._clock = clock
        self._prompt_is_next = True

    @property
    def first_token_at(self) -> float | None:
        """Time of the first piece; None before it."""
        return self.pieces[0][0] if self.pieces else None

    @property
    def first_tokens(self) -> int:
        """Tokens of the first piece."""
        return self.pieces[0][1] if self.pieces else 0

    @property
    def waits_s(self) -> tuple[float, ...]:
        """Seconds before each token after the first; 0 for a token that came with another."""
        together = [(0.0,) * (tokens - 1) for _, tokens in self.pieces]
        waits = [now - before for (before, _), (now, _) in pairwise(self.pieces)]
        later = [(wait, *rest) for wait, rest in zip(waits, together[1:], strict=True)]
        return tuple(chain(*together[:1], *later))

    def put(self, value: torch.Tensor) -> None:
        """Receive a piece: first the prompt, which is not recorded, then the answer's."""
        if self._prompt_is_next:
            self._prompt_is_next = False
        else:
            self.pieces.append((self._clock(), value.numel()))
        if self._listener is not None:
            self._listener.put(value)

    def end(self) -> None:
        """Receive the end of the answer."""
        if self._listener is not None:
            self._listener.end()


def greedy(max_new_tokens: int) -> dict[str, Any]:
    """Return settings of `generate` for a greedy answer."""
    return {"do_sample": False, "max_new_tokens": max_new_tokens}


def sampled(max_new_tokens: int, temperature: float) -> dict[str, Any]:
    """Return settings of `generate` for sampling from the whole distribution."""
    return {"do_sample": True, "temperature": temperature, "top_k": 0, "max_new_tokens": max_new_tokens}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One call by one method.

    Attributes:
        answers: Tokens of each prompt's answer, with the end-of-sequence token.
        total_s: Seconds from the call to its return.
        decode_tokens: Tokens after those of the first forward pass.
        decode_s: Seconds after the first token; 0 without streaming.
        steps: Forward passes after prefill, of all rows.
        first_token_s: Seconds until the first token; None without streaming.
        waits_s: Seconds before each token after the first; 0 for a token that came with another.
        peak_bytes: Peak memory; None if it was not measured.
    """

    answers: tuple[tuple[int, ...], ...]
    total_s: float
    decode_tokens: int
    decode_s: float
    steps: int
    first_token_s: float | None = None
    waits_s: tuple[float, ...] = ()
    peak_bytes: int | None = None

    @property
    def output_ids(self) -> tuple[int, ...]:
        """Tokens of all answers, concatenated."""
        return tuple(chain.from_iterable(self.answers))

    @property
    def tokens(self) -> int:
        """Number of tokens of all answers."""
        return sum(map(len, self.answers))


def measure(
    method: Method,
    model: PreTrainedModel,
    inputs: Mapping[str, torch.Tensor],
    *,
    settings: Mapping[str, Any],
    seed: int = 0,
    streamed: bool = True,
    listener: Listener | None = None,
    meter: MemoryMeter = _NO_METER,
    clock: Clock = time.perf_counter,
) -> Run:
    """Let the method answer once, and measure it; every method samples with the same seed.

    Batches are never streamed: with a streamer their rows would have to wait for each other.
    """
    alone = len(inputs["input_ids"]) == 1
    streamer = TimingStreamer(listener, clock) if alone and streamed else None
    torch.manual_seed(seed)
    meter.reset()
    started_at = clock()
    output = method.generate(model, inputs, settings=settings, streamer=streamer)
    answers = _answers(model, inputs["input_ids"], output)
    ended_at = clock()
    peak_bytes = meter.peak_bytes()
    if streamer is None:
        return _batch_run(answers, ended_at - started_at, output.steps, peak_bytes)
    first_token_at = ended_at if streamer.first_token_at is None else streamer.first_token_at
    return Run(
        answers=answers,
        total_s=ended_at - started_at,
        decode_tokens=len(answers[0]) - streamer.first_tokens,
        decode_s=ended_at - first_token_at,
        steps=max(len(streamer.pieces) - 1, 0) if output.steps is None else output.steps,
        first_token_s=first_token_at - started_at,
        waits_s=streamer.waits_s,
        peak_bytes=peak_bytes,
    )


def _batch_run(
    answers: tuple[tuple[int, ...], ...], total_s: float, steps: int | None, peak_bytes: int | None
) -> Run:
    decode_tokens = sum(len(answer) - 1 for answer in answers)
    return Run(
        answers=answers,
        total_s=total_s,
        decode_tokens=decode_tokens,
        decode_s=0.0,
        steps=decode_tokens if steps is None else steps,
        peak_bytes=peak_bytes,
    )


def _answers(model: PreTrainedModel, prompts: torch.Tensor, output: Output) -> tuple[tuple[int, ...], ...]:
    """Return each row's answer, in a batch without the padding after its end."""
    answers = output.sequences[:, prompts.shape[1] :].tolist()
    if len(answers) == 1:
        return (tuple(answers[0]),)
    given = getattr(model.generation_config, "eos_token_id", None)
    ends = set(given) if isinstance(given, list) else {given}
    return tuple(_until_end(answer, ends) for answer in answers)


def _until_end(answer: list[int], ends: set[int | None]) -> tuple[int, ...]:
    end = next((index for index, token in enumerate(answer) if token in ends), len(answer))
    return tuple(answer[: end + 1])
