"""Lookahead's engine as a way of serving: without drafts, with an empty or with a warm memory."""

import asyncio
from enum import StrEnum

from lookahead.bench.report.uncertainty import quotient
from lookahead.bench.serving.measuring import Passes, Recorder, Round
from lookahead.bench.serving.methods import Load, Served, ServingMethod
from lookahead.config import DraftMode
from lookahead.drafting.log.token_log import TokenLog
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.drafting.noise import NO_NOISE, Noise
from lookahead.drafting.store import RequestId
from lookahead.drafting.tree import DraftTree
from lookahead.engine.local_engine import LocalEngine
from lookahead.engine.request import Request
from lookahead.engine.settings import EngineSettings
from lookahead.engine.stats import EngineStats
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
        self.rows = rows
        self._served, self._drafts = served, drafts
        self._settings = EngineSettings(
            max_rows=rows,
            max_step_tokens=max(EngineSettings.max_step_tokens, 2 * rows),
            max_queued=2**31,
            max_queued_tokens=2**40,
            prefix_cache=served.prefix_cache,
        )

    def serve(self, load: Load) -> Round:
        """Answer all requests."""
        served = self._served
        engine, report = create_engine(
            served.model, served.tokenizer, served.config, self._memory(load), self._settings
        )
        self.about = str(report)
        with engine:
            first = Request(prompt_ids=load.prompts[0], max_tokens=_WARM_UP_TOKENS, namespace=_WARM_UP)
            engine.submit(first).result()
            before = engine.stats()
            recorder = asyncio.run(_serve(engine, load))
            passes = _passes(before, engine.stats(), is_alone=bool(report.why_not_together))
        return Round(recorder.timelines, passes)

    def _memory(self, load: Load) -> DraftMemory:
        """Return a new memory."""
        max_bytes = self._served.config.max_bytes
        if self._drafts is Drafts.OFF:
            return DraftMemory(store=_NoDrafts(max_bytes=max_bytes))
        memory = DraftMemory(max_bytes=max_bytes)
        if self._drafts is Drafts.WARM:
            memory.warm([list(answer) for answer in load.known])
        return memory


class _NoDrafts(TokenLog):
    """Drafts nothing, so that everything else is as with drafts.

    With `decoding_length=1`, some models would be served one request after the other.
    """

    def __init__(self, *, max_bytes: int) -> None:
        super().__init__(max_bytes=max_bytes)
        self.recycles = False

    def propose(
        self,
        request: RequestId,
        *,
        decoding_length: int,
        branch_length: int,
        mode: DraftMode,
        noise: Noise = NO_NOISE,
    ) -> DraftTree:
        """Return the last token alone."""
        del decoding_length, noise
        return super().propose(request, decoding_length=1, branch_length=branch_length, mode=mode)


def _passes(before: EngineStats, after: EngineStats, *, is_alone: bool) -> Passes:
    """Return the forward passes between two moments; of requests served alone, a step is a whole answer."""
    then, now = before.generation, after.generation
    answers, row_steps = now.requests - then.requests, now.row_steps - then.row_steps
    forwards = now.forwards - then.forwards + answers if is_alone else after.steps - before.steps
    return Passes(forwards, quotient(now.tokens - then.tokens - answers, row_steps))


async def _serve(engine: LocalEngine, load: Load) -> Recorder:
    """Begin the round, submit each request when it arrives, and note its tokens as they come."""
    recorder = load.begin()

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
    return recorder
