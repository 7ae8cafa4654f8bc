"""The ways of serving that the experiment compares, by name."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from lookahead.bench.serving.measuring import Passes, RealTimer, Recorder, Round, Timer, serve_in_turn
from lookahead.config import LookaheadConfig
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.hf.lookahead import Lookahead


@dataclass(frozen=True, kw_only=True)
class Load:
    """The requests of a round.

    Attributes:
        prompts: The tokens of each prompt.
        arrivals: When each arrives, in seconds after the beginning, in order.
        max_new_tokens: The most tokens of an answer.
        known: Answers that a warm memory holds.
        timer: The clock.
    """

    prompts: Sequence[Sequence[int]]
    arrivals: Sequence[float]
    max_new_tokens: int
    known: Sequence[Sequence[int]] = ()
    timer: Timer = field(default_factory=RealTimer)

    def begin(self) -> Recorder:
        """Begin the round: from now on seconds count."""
        return Recorder(self.arrivals, self.timer)


@dataclass(frozen=True, kw_only=True)
class Served:
    """What is served, and how.

    Attributes:
        model: The model.
        tokenizer: Its tokenizer.
        config: Settings of Lookahead.
        prefix_cache: Whether engines keep what prompts begin with.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    config: LookaheadConfig
    prefix_cache: bool = False

    def settings(self, max_new_tokens: int) -> dict[str, Any]:
        """Return the arguments of `generate`; an engine's requests have no penalties either."""
        return {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": max_new_tokens}

    @property
    def end_tokens(self) -> frozenset[int]:
        """The tokens that end an answer."""
        given = getattr(self.model.generation_config, "eos_token_id", None)
        return frozenset(given if isinstance(given, list) else [] if given is None else [given])

    def tensor(self, tokens: Sequence[int]) -> Tensor:
        """Return a prompt as int64 [1, L] on the model's device."""
        return torch.tensor([list(tokens)], device=self.model.device)


class ServingMethod(ABC):
    """A way of serving requests.

    Attributes:
        name: Its name in options and reports.
        rows: The most requests that it serves at once.
        about: What is worth knowing about how it serves the model; empty if nothing is.
    """

    name: str
    rows: int = 1
    about: str = ""

    @abstractmethod
    def serve(self, load: Load) -> Round:
        """Set everything up, begin the round, and answer all requests.

        Raises:
            Exception: The method cannot serve the model.
        """


class _Rows(BaseStreamer):
    """Notes the tokens of a call's rows as they come.

    Args:
        recorder: Where they are noted.
        indices: The requests of the rows.
        ends: Tokens that end an answer; what follows them is padding.

    Attributes:
        pieces: How often tokens came.
    """

    def __init__(self, recorder: Recorder, indices: Sequence[int], ends: frozenset[int]) -> None:
        self.pieces = 0
        self._recorder, self._indices, self._ends = recorder, indices, ends
        self._is_prompt = True
        self._ended: set[int] = set()

    def put(self, value: Tensor) -> None:
        """Receive the prompts, then tokens: [B] of a step, or those of one row."""
        if self._is_prompt:
            self._is_prompt = False
            return
        self.pieces += 1
        rows = value.reshape(len(self._indices), -1).tolist()
        for index, tokens in zip(self._indices, rows, strict=True):
            if index not in self._ended:
                self._recorder.put(index, tokens)
                if self._ends.intersection(tokens):
                    self._ended.add(index)

    def end(self) -> None:
        """Do nothing: the answers are complete."""


class Generate(ServingMethod):
    """`model.generate`, one request after the other, or in batches padded on the left.

    A batch is what has arrived when the one before it has ended.

    Args:
        name: Its name.
        served: What is served.
        rows: The most requests of a batch.
    """

    def __init__(self, name: str, served: Served, rows: int = 1) -> None:
        self.name = name
        self._served, self.rows = served, rows

    def serve(self, load: Load) -> Round:
        """Answer all requests."""
        served, forwards = self._served, 0
        untyped: Any = served.model  # the library's mixin hides its type
        recorder = load.begin()

        def answer(indices: Sequence[int]) -> None:
            nonlocal forwards
            streamer = _Rows(recorder, indices, served.end_tokens)
            inputs = self._inputs([load.prompts[index] for index in indices])
            untyped.generate(**inputs, **served.settings(load.max_new_tokens), streamer=streamer)
            forwards += streamer.pieces

        serve_in_turn(recorder, answer, most=self.rows)
        return Round(recorder.timelines, Passes(forwards))

    def _inputs(self, prompts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        width = max(map(len, prompts))
        config: Any = self._served.model.generation_config
        filler = config.pad_token_id or 0
        tokens = [self._served.tensor(prompt) for prompt in prompts]
        left = [width - len(prompt) for prompt in prompts]
        padded = [pad(row, (more, 0), value=filler) for row, more in zip(tokens, left, strict=True)]
        masks = [
            pad(torch.ones_like(row), (more, 0), value=0) for row, more in zip(tokens, left, strict=True)
        ]
        return {"input_ids": torch.cat(padded), "attention_mask": torch.cat(masks)}


class LookaheadGenerate(ServingMethod):
    """`Lookahead.generate`, one request after the other; its memory is empty at the beginning of a round.

    Args:
        name: Its name.
        served: What is served.
    """

    def __init__(self, name: str, served: Served) -> None:
        self.name = name
        self._served = served
        self._lookahead = Lookahead(served.config)

    def serve(self, load: Load) -> Round:
        """Answer all requests."""
        served, lookahead = self._served, self._lookahead
        lookahead.memory = DraftMemory(max_bytes=served.config.max_bytes)
        lookahead.reset_stats()
        recorder = load.begin()

        def answer(indices: Sequence[int]) -> None:
            inputs = served.tensor(load.prompts[indices[0]])
            settings = {**served.settings(load.max_new_tokens), "attention_mask": torch.ones_like(inputs)}
            streamer = _Rows(recorder, indices, frozenset())
            lookahead.generate(served.model, inputs, **settings, streamer=streamer)

        serve_in_turn(recorder, answer)
        stats = lookahead.stats
        passes = Passes(stats.forwards + stats.requests, stats.mean_acceptance_length)
        return Round(recorder.timelines, passes)
