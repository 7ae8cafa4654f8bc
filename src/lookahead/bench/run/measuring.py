"""Measuring one call: seconds and tokens, the first forward's and those after it, and the wait for each."""

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
    """Whatever else wants the tokens as they come: a `TextStreamer`, say."""

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt, then each piece of the answer."""

    def end(self) -> None:
        """The answer is complete."""


class TimingStreamer(BaseStreamer):
    """Notes when each piece of the answer came, and how many tokens were in it.

    Attributes:
        pieces: by piece of the answer, when it came and its tokens.
    """

    def __init__(self, listener: Listener | None = None, clock: Clock = time.perf_counter) -> None:
        self.pieces: list[tuple[float, int]] = []
        self._listener = listener
        self._clock = clock
        self._prompt_is_next = True

    @property
    def first_token_at(self) -> float | None:
        """When the first piece came; None before."""
        return self.pieces[0][0] if self.pieces else None

    @property
    def first_tokens(self) -> int:
        """How many tokens the first piece had."""
        return self.pieces[0][1] if self.pieces else 0

    @property
    def waits_s(self) -> tuple[float, ...]:
        """Seconds before each token after the first; 0 for one that came together with another."""
        together = [(0.0,) * (tokens - 1) for _, tokens in self.pieces]
        waits = [now - before for (before, _), (now, _) in pairwise(self.pieces)]
        later = [(wait, *rest) for wait, rest in zip(waits, together[1:], strict=True)]
        return tuple(chain(*together[:1], *later))

    def put(self, value: torch.Tensor) -> None:
        """Take a piece: first the prompt, which counts for nothing, then the answer's."""
        if self._prompt_is_next:
            self._prompt_is_next = False
        else:
            self.pieces.append((self._clock(), value.numel()))
        if self._listener is not None:
            self._listener.put(value)

    def end(self) -> None:
        """Take the end of the answer."""
        if self._listener is not None:
            self._listener.end()


def greedy(max_new_tokens: int) -> dict[str, Any]:
    """Settings of `generate` for a greedy answer."""
    return {"do_sample": False, "max_new_tokens": max_new_tokens}


def sampled(max_new_tokens: int, temperature: float) -> dict[str, Any]:
    """Settings of `generate` for an answer drawn at random from the whole distribution."""
    return {"do_sample": True, "temperature": temperature, "top_k": 0, "max_new_tokens": max_new_tokens}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One call by one method.

    Attributes:
        answers: by prompt of the call, the answer's tokens, the end-of-sequence one included.
        total_s: seconds from the call to its return.
        decode_tokens: tokens after those that the first forward gave.
        decode_s: seconds after the first token came; 0 where nothing is streamed.
        steps: forwards after prefill, of all rows.
        first_token_s: seconds until the first token came; None where nothing is streamed.
        waits_s: seconds before each token after the first, 0 for one that came together with another.
        peak_bytes: the most memory taken meanwhile; None where it was not measured.
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
        """The tokens of all answers, one after the other."""
        return tuple(chain.from_iterable(self.answers))

    @property
    def tokens(self) -> int:
        """How long the answers are together."""
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
    """Have the method answer once, and measure it; what is drawn at random is the same for every method.

    Several prompts at once are never streamed: with a streamer their rows would have to wait for each other.
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
    """Return each row's answer; in a batch without the padding after its end."""
    answers = output.sequences[:, prompts.shape[1] :].tolist()
    if len(answers) == 1:
        return (tuple(answers[0]),)
    given = getattr(model.generation_config, "eos_token_id", None)
    ends = set(given) if isinstance(given, list) else {given}
    return tuple(_until_end(answer, ends) for answer in answers)


def _until_end(answer: list[int], ends: set[int | None]) -> tuple[int, ...]:
    place = next((place for place, token in enumerate(answer) if token in ends), len(answer))
    return tuple(answer[: place + 1])
