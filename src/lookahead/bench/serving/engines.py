"""Lookahead's engine as a way of serving: without drafts, with an empty memory, with one that knows the answers."""

import asyncio
from dataclasses import replace
from enum import StrEnum

from lookahead.bench.serving.measuring import Passes, Recorder, Round
from lookahead.bench.serving.methods import Load, Served, ServingMethod
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.engine.local_engine import LocalEngine
from lookahead.engine.request import Request
from lookahead.engine.settings import EngineSettings
from lookahead.hf.serving.create import create_engine

_WARM_UP_TOKENS = 4
_WARM_UP = "warm-up"
"""A namespace: what is learned in it is drafted for no request."""


class Drafts(StrEnum):
    """What an engine drafts."""

    OFF = "off"
    """Nothing: a token per forward pass and row."""
    COLD = "cold"
    """What its memory holds, which is empty at the beginning of a round."""
    WARM = "warm"
    """Likewise, from a memory that holds the answers to the same prompts."""


class EngineMethod(ServingMethod):
    """A new engine for each round; making it, and a first short answer, are not measured.

    Args:
        name: Its name.
        served: What is served.
        rows: Requests that are served at once.
        drafts: What it drafts.
    """

    def __init__(self, name: str, served: Served, rows: int, drafts: Drafts) -> None:
        self.name = name
        self._served, self._drafts = served, drafts
        self._config = replace(served.config, decoding_length=1) if drafts is Drafts.OFF else served.config
        self._settings = EngineSettings(
            max_rows=rows,
            max_step_tokens=max(EngineSettings.max_step_tokens, 2 * rows),
            max_queued=2**31,
            max_queued_tokens=2**40,
            prefix_cache=served.prefix_cache,
        )

    def serve(self, load: Load) -> Round:
        """Answer all requests."""
        memory = DraftMemory(max_bytes=self._served.config.max_bytes)
        if self._drafts is Drafts.WARM:
            memory.warm([list(answer) for answer in load.known])
        model, tokenizer = self._served.model, self._served.tokenizer
        engine, report = create_engine(model, tokenizer, self._config, memory, self._settings)
        self.about = str(report)
        with engine:
            first = Request(prompt_ids=load.prompts[0], max_tokens=_WARM_UP_TOKENS, namespace=_WARM_UP)
            engine.submit(first).result()
            before = engine.stats()
            steps, forwards, tokens, requests, row_steps = (
                before.steps,
                before.generation.forwards,
                before.generation.tokens,
                before.generation.requests,
                before.generation.row_steps,
            )
            recorder = load.begin()
            asyncio.run(_serve(engine, load, recorder))
            after = engine.stats()
        made = after.generation
        passes = after.steps - steps
        if report.why_not_together:  # a step is a whole answer
            passes = made.forwards - forwards + made.requests - requests
        rows = made.row_steps - row_steps
        later = made.tokens - tokens - (made.requests - requests)
        return Round(recorder.timelines, Passes(passes, later / rows if rows else None))


async def _serve(engine: LocalEngine, load: Load, recorder: Recorder) -> None:
    """Submit each request when it arrives, and note its tokens as they come."""

    async def one(index: int) -> None:
        await asyncio.sleep(recorder.until_arrival_s(index))
        request = Request(prompt_ids=load.prompts[index], max_tokens=load.max_new_tokens)
        async for event in engine.submit(request):
            recorder.put(index, event.tokens)
            if event.finish is not None and event.finish.error is not None:
                raise event.finish.error

    async with asyncio.TaskGroup() as group:
        for index in range(len(load.prompts)):
            group.create_task(one(index))
