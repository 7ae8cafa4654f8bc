"""`LocalEngine`: one thread that lets a model serve many requests at once."""

import logging
from collections import Counter
from copy import copy
from dataclasses import dataclass, field
from threading import Condition, Thread, current_thread
from typing import Any, Self

from lookahead.engine.events import Event, Finish, FinishReason, Usage
from lookahead.engine.protocol import ModelRunner, Progress
from lookahead.engine.request import Request
from lookahead.engine.request_clock import RequestClock
from lookahead.engine.scheduler import Scheduler, SchedulerLimits, StepPlan
from lookahead.engine.settings import EngineSettings
from lookahead.engine.stats import EngineStats
from lookahead.engine.stream import Stream
from lookahead.errors import EngineClosedError

_log = logging.getLogger("lookahead")


@dataclass(eq=False)
class _Served:
    """A request from `submit` to its last event.

    Attributes:
        request: The request.
        state: The model runner's state of it.
        stream: Where its events go.
        cached: Tokens of its prompt that the prefix cache held.
        completion: Tokens of its answer so far.
        drafted: Tokens that were drafted for it.
        accepted: How many of them the model confirmed.
        clock: Where its time goes.
    """

    request: Request
    state: Any
    stream: Stream
    cached: int = 0
    completion: int = 0
    drafted: int = 0
    accepted: int = 0
    clock: RequestClock = field(default_factory=RequestClock)

    @property
    def usage(self) -> Usage:
        """The tokens of the request so far."""
        prompt = len(self.request.prompt_ids)
        return Usage(prompt, min(self.cached, prompt), self.completion, self.drafted, self.accepted)


@dataclass
class _Counts:
    finished: Counter[str] = field(default_factory=Counter)
    preemptions: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    drafts: int = 0
    accepted_by_depth: list[int] = field(default_factory=list)

    def count_draft(self, progress: Progress) -> None:
        """Count a step's draft of a row."""
        self.drafts += progress.draft_tokens > 0
        missing = progress.accepted_tokens - len(self.accepted_by_depth)
        self.accepted_by_depth += [0] * missing
        for depth in range(progress.accepted_tokens):
            self.accepted_by_depth[depth] += 1


class LocalEngine:
    """An engine in this process: schedules, steps and delivers in a thread of its own.

    Args:
        runner: The model; the engine closes it.
        settings: How much the engine takes on.
    """

    def __init__(self, runner: ModelRunner[Any], settings: EngineSettings) -> None:
        self._runner = runner
        self._scheduler = Scheduler(
            SchedulerLimits(
                max_rows=runner.max_rows,
                max_step_tokens=settings.max_step_tokens,
                max_cached_tokens=runner.max_cached_tokens,
                max_request_tokens=runner.max_request_tokens,
                max_queued=settings.max_queued,
                max_queued_tokens=settings.max_queued_tokens,
            )
        )
        self._served: dict[int, _Served] = {}
        self._cancelled: set[int] = set()
        self._clears_prefixes = False
        self._next_id = 0
        self._counts = _Counts()
        self._takes_requests, self._is_closing = True, False
        self._changed = Condition()  # guards everything above but the runner
        self._thread = Thread(target=self._run, name="lookahead-engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Stream:
        """Take a request and return the stream of its events.

        Raises:
            ConfigError: The model cannot serve it.
            RequestTooLongError: It is longer than the engine can ever serve.
            QueueFullError: Too many requests wait.
            EngineClosedError: The engine is draining or closed.
        """
        self._check_open()
        state = self._runner.prepare(request)
        with self._changed:
            self._check_open()
            request_id = self._next_id
            self._scheduler.add(
                request_id,
                priority=request.priority,
                prompt_tokens=len(request.prompt_ids),
                max_new_tokens=request.max_tokens,
            )
            self._next_id += 1
            stream = Stream(request_id, self.cancel)
            self._served[request_id] = _Served(request, state, stream)
            self._changed.notify_all()
        return stream

    def cancel(self, request_id: int) -> None:
        """End a request: its row is free before the next step. Unknown and ended requests are ignored."""
        with self._changed:
            if request_id in self._served:
                self._cancelled.add(request_id)
                self._changed.notify_all()

    def clear_prefixes(self) -> None:
        """Let the prefix cache forget all texts, before the next step."""
        with self._changed:
            self._clears_prefixes = True
            self._changed.notify_all()

    def drain(self, timeout: float | None = None) -> bool:
        """Take no more requests, let the others end, and close.

        Args:
            timeout: Seconds after which those that have not ended are cancelled; None for any time.

        Returns:
            Whether all ended by themselves.
        """
        with self._changed:
            self._takes_requests = False
            ended = self._changed.wait_for(lambda: not self._served, timeout)
        self.close()
        return ended

    def close(self) -> None:
        """Cancel all requests and end the thread, after its current step."""
        with self._changed:
            self._takes_requests, self._is_closing = False, True
            self._cancelled.update(self._served)
            self._changed.notify_all()
        if current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stats(self) -> EngineStats:
        """Return what the engine has done so far and is doing."""
        with self._changed:
            running, counts = self._scheduler.running.values(), self._counts
            return EngineStats(
                running=len(running),
                waiting=len(self._scheduler.waiting),
                finished=dict(counts.finished),
                preemptions=counts.preemptions,
                steps=counts.steps,
                prompt_tokens=counts.prompt_tokens,
                cached_tokens=counts.cached_tokens,
                completion_tokens=counts.completion_tokens,
                cache_tokens=sum(entry.held for entry in running),
                max_cache_tokens=self._scheduler.limits.max_cached_tokens,
                prefix_tokens=self._runner.prefix_tokens,
                prefix_queries=counts.prefix_queries,
                prefix_hits=counts.prefix_hits,
                drafts=counts.drafts,
                accepted_by_depth=tuple(counts.accepted_by_depth),
                generation=copy(self._runner.stats),
            )

    @property
    def is_running(self) -> bool:
        """Whether requests are taken."""
        return self._takes_requests and self._thread.is_alive()

    @property
    def max_request_tokens(self) -> int:
        """The most tokens of prompt and answer together."""
        limits = self._scheduler.limits
        return min(limits.max_request_tokens, limits.max_cached_tokens)

    def _check_open(self) -> None:
        if not self._takes_requests:
            message = "the engine takes no more requests: it is draining or closed; send them to another one"
            raise EngineClosedError(message)

    def _run(self) -> None:
        try:
            while (plan := self._next_plan()) is not None:
                self._do(plan)
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._runner.close()

    def _fail(self, error: BaseException) -> None:
        """End all requests with what ended the engine's thread, and take no more."""
        failure = error if isinstance(error, Exception) else RuntimeError(f"the engine ended: {error!r}")
        with self._changed:
            self._takes_requests = False
            for request_id in list(self._served):
                self._end(request_id, FinishReason.ERROR, error=failure)

    def _next_plan(self) -> StepPlan | None:
        """Wait until there is something to do and return the next step; None to end."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._served or self._is_closing or self._clears_prefixes)
                if self._clears_prefixes:
                    self._runner.shrink_prefixes(0)
                    self._clears_prefixes = False
                for request_id in sorted(self._cancelled):
                    self._end(request_id, FinishReason.CANCELLED)
                if not self._served and self._is_closing:
                    return None
                self._admit()
                plan = self._scheduler.plan()
                if plan.requests:
                    return plan

    def _admit(self) -> None:
        """Take rows away and give rows, as the scheduler decides; the lock is held."""
        preempted, admitted = self._scheduler.admit()
        for request_id in preempted:
            self._runner.release(request_id)
        self._counts.preemptions += len(preempted)
        self._runner.shrink_prefixes(self._scheduler.cache_room)
        for request_id in admitted:
            served = self._served[request_id]
            try:
                held = self._runner.begin(request_id, served.state)
            except Exception as error:  # noqa: BLE001  whatever went wrong ends this request alone
                self._end(request_id, FinishReason.ERROR, error=error)
                continue
            if served.completion == 0:
                served.cached = held
            self._counts.prefix_queries += len(served.request.prompt_ids) + served.completion
            self._counts.prefix_hits += held
            served.clock.begin()
            self._scheduler.started(request_id, held=held)

    def _do(self, plan: StepPlan) -> None:
        """Do a step and deliver what it did."""
        failure: Exception | None = None
        progress: dict[int, Progress] = {}
        before = copy(self._runner.stats)
        try:
            progress = dict(self._runner.step(plan, self._publish))
        except Exception as error:  # noqa: BLE001  whatever went wrong ends the requests of this step alone
            failure = error
        with self._changed:
            self._counts.steps += 1
            for request_id in plan.requests:
                if request_id in self._served:
                    self._served[request_id].clock.add_step(before, self._runner.stats)
                if failure is not None:
                    self._end(request_id, FinishReason.ERROR, error=failure)
                else:
                    self._deliver(request_id, progress[request_id])

    def _publish(self, request_id: int, progress: Progress) -> bool:
        """Deliver a part of an answer; return whether the request goes on."""
        with self._changed:
            self._deliver(request_id, progress)
            return request_id not in self._cancelled

    def _deliver(self, request_id: int, progress: Progress) -> None:
        """Count a step of a request and send its event; the lock is held."""
        served = self._served[request_id]
        served.completion += len(progress.tokens)
        served.drafted += progress.draft_tokens
        served.accepted += progress.accepted_tokens
        served.clock.note_tokens(len(progress.tokens))
        self._counts.count_draft(progress)
        if progress.error is not None:
            self._end(request_id, FinishReason.ERROR, progress, error=progress.error)
        elif progress.is_finished:
            reason = FinishReason.LENGTH if progress.stop is None else FinishReason.STOP
            self._end(request_id, reason, progress)
        else:
            length = len(served.request.prompt_ids) + served.completion
            lengths = {request_id: length} if progress.is_decoding else {}
            self._scheduler.advance({request_id: progress.held}, lengths)
            if progress.tokens:
                served.stream.put(self._event(progress))

    def _end(
        self,
        request_id: int,
        reason: FinishReason,
        progress: Progress | None = None,
        *,
        error: Exception | None = None,
    ) -> None:
        """Free what a request has and send its last event; the lock is held."""
        served = self._served.pop(request_id, None)
        if served is None:
            return
        self._scheduler.remove(request_id)
        self._cancelled.discard(request_id)
        progress = progress or Progress()
        usage, counts = served.usage, self._counts
        counts.finished[reason.value] += 1
        counts.prompt_tokens += usage.prompt_tokens
        counts.cached_tokens += usage.cached_tokens
        counts.completion_tokens += usage.completion_tokens
        try:
            self._runner.end(request_id, served.state)
        except Exception:  # noqa: BLE001  the others go on
            _log.exception("request %d ended, but its row could not be given back as it should", request_id)
        finish = Finish(reason, usage, progress.stop, error, served.clock.seconds())
        served.stream.put(self._event(progress, finish))
        self._changed.notify_all()

    def _event(self, progress: Progress, finish: Finish | None = None) -> Event:
        return Event(
            progress.tokens,
            progress.logprobs,
            finish,
            progress.sources,
            [self._counts.steps] * len(progress.tokens),
            progress.prompt_logprobs,
        )
