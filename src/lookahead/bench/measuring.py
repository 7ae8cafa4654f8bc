"""Measuring one answer: seconds and tokens, the first forward's and those after it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from lookahead.bench.methods import Method


class Listener(Protocol):
    """Whatever else wants the tokens as they come: a `TextStreamer`, say."""

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt, then each piece of the answer."""

    def end(self) -> None:
        """The answer is complete."""


class TimingStreamer(BaseStreamer):
    """Notes when the first token came, and how many tokens in how many pieces."""

    def __init__(self, listener: Listener | None = None) -> None:
        self.first_token_at: float | None = None
        self.first_tokens = 0
        self.pieces = 0
        self._listener = listener
        self._prompt_is_next = True

    def put(self, value: torch.Tensor) -> None:
        """Take a piece: first the prompt, which counts for nothing, then the answer's."""
        if self._prompt_is_next:
            self._prompt_is_next = False
        else:
            if self.first_token_at is None:
                self.first_token_at = time.perf_counter()
                self.first_tokens = value.numel()
            self.pieces += 1
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
    """One answer by one method.

    Attributes:
        output_ids: the answer's tokens, the end-of-sequence one included.
        total_s: seconds from the call to its return.
        decode_tokens: tokens after those that the first forward gave.
        decode_s: seconds after the first token came.
        steps: forwards after prefill.
    """

    output_ids: tuple[int, ...]
    total_s: float
    decode_tokens: int
    decode_s: float
    steps: int

    @property
    def tokens(self) -> int:
        """How long the answer is."""
        return len(self.output_ids)


def measure(
    method: Method,
    model: PreTrainedModel,
    inputs: Mapping[str, torch.Tensor],
    *,
    settings: Mapping[str, Any],
    listener: Listener | None = None,
) -> Run:
    """Have the method answer once, and measure it; what is drawn at random is the same for every method."""
    streamer = TimingStreamer(listener)
    torch.manual_seed(0)
    started_at = time.perf_counter()
    output = method.generate(model, inputs, settings=settings, streamer=streamer)
    output_ids = tuple(output.sequences[0, inputs["input_ids"].shape[1] :].tolist())
    ended_at = time.perf_counter()
    first_token_at = ended_at if streamer.first_token_at is None else streamer.first_token_at
    return Run(
        output_ids=output_ids,
        total_s=ended_at - started_at,
        decode_tokens=len(output_ids) - streamer.first_tokens,
        decode_s=ended_at - first_token_at,
        steps=max(streamer.pieces - 1, 0) if output.steps is None else output.steps,
    )
