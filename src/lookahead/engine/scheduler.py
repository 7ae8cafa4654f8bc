"""`Scheduler`: which requests are served in the next step, and how many tokens of prompts are read in it.

It knows no model and no clock: numbers go in and plans come out, one plan for each step.

    waiting   [F, G]                     by priority, then by arrival
    running   A decoding, B reading its prompt of 2,000 tokens, C reading one of 50

    step 1    A 1 token     B 205 tokens     C 50 tokens     max_step_tokens = 256
    step 2    A 1 token     B 254 tokens     C 1 token
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lookahead.errors import QueueFullError, RequestTooLongError

_GROWTH_TOKENS = 64
"""Tokens that each row may grow by after a request was admitted, before the cache is full."""


@dataclass(frozen=True, kw_only=True)
class SchedulerLimits:
    """What the requests share.

    Attributes:
        max_rows: Requests that run at once.
        max_step_tokens: Tokens of one step; at least two for each row.
        max_cached_tokens: Tokens in the KV cache.
        max_request_tokens: Tokens of one request, prompt and answer.
        max_queued: Requests that wait while all rows are taken.
        max_queued_tokens: Tokens of their prompts.
    """

    max_rows: int
    max_step_tokens: int
    max_cached_tokens: int
    max_request_tokens: int
    max_queued: int
    max_queued_tokens: int


@dataclass
class Entry:
    """A request, as the scheduler knows it.

    Attributes:
        request_id: Its number; later ones are larger.
        priority: Lower numbers come first.
        prompt_tokens: Tokens to read before it decodes: the prompt, and after a preemption the answer so far.
        max_new_tokens: The most tokens of its answer.
        held: Tokens that its row holds.
        is_decoding: Whether all of them have been read.
    """

    request_id: int
    priority: int
    prompt_tokens: int
    max_new_tokens: int
    held: int = 0
    is_decoding: bool = False

    @property
    def rank(self) -> tuple[int, int]:
        """Its place in the order of service, lowest first."""
        return (self.priority, self.request_id)

    @property
    def unread(self) -> int:
        """Tokens that are still to be read before it decodes."""
        return 0 if self.is_decoding else self.prompt_tokens - self.held

    @property
    def reserved(self) -> int:
        """Tokens of the cache that it needs to get through the next step, and to begin to decode."""
        return self.held + 1 if self.is_decoding else self.prompt_tokens + 1


@dataclass(frozen=True)
class StepPlan:
    """What one step does.

    Attributes:
        reads: By request, how many tokens of its prompt are read.
        decodes: The requests that decode.
        max_draft_tokens: How many tokens may be drafted for all of them together.
    """

    reads: Mapping[int, int]
    decodes: Sequence[int]
    max_draft_tokens: int

    @property
    def requests(self) -> list[int]:
        """All requests of the step."""
        return [*self.reads, *self.decodes]


@dataclass
class Scheduler:
    """Serves first come first, within a priority.

    `add`, `admit`, `plan` and `advance` are called in this order, over and over; `remove` at any time
    between steps.

    Args:
        limits: What the requests share.
    """

    limits: SchedulerLimits
    waiting: dict[int, Entry] = field(default_factory=dict, init=False)
    running: dict[int, Entry] = field(default_factory=dict, init=False)

    def add(self, request_id: int, *, priority: int, prompt_tokens: int, max_new_tokens: int) -> None:
        """Let a request wait for its turn.

        Raises:
            RequestTooLongError: It can never be served.
            QueueFullError: Too many requests wait.
        """
        limits = self.limits
        total = prompt_tokens + max_new_tokens
        allowed = min(limits.max_request_tokens, limits.max_cached_tokens)
        if total > allowed:
            message = (
                f"a prompt of {prompt_tokens} tokens and an answer of up to {max_new_tokens} are more than "
                f"the {allowed} tokens that a request may have; shorten the prompt or lower max_tokens"
            )
            raise RequestTooLongError(message)
        queued = sum(entry.prompt_tokens for entry in self.waiting.values())
        # Those that wait may be about to get the rows that are free.
        if len(self.running) + len(self.waiting) >= limits.max_rows + limits.max_queued:
            message = f"{len(self.waiting)} requests wait, which is all that may; try again later"
            raise QueueFullError(message)
        if self.waiting and queued + prompt_tokens > limits.max_queued_tokens:
            message = (
                f"the prompts of the requests that wait have {queued} of at most "
                f"{limits.max_queued_tokens} tokens; try again later"
            )
            raise QueueFullError(message)
        self.waiting[request_id] = Entry(request_id, priority, prompt_tokens, max_new_tokens)

    def remove(self, request_id: int) -> bool:
        """Forget a request, waiting or running; return whether it ran."""
        was_running = self.running.pop(request_id, None) is not None
        self.waiting.pop(request_id, None)
        return was_running

    def admit(self) -> tuple[list[int], list[int]]:
        """Choose who runs in the next step. Return the requests that were preempted, and those admitted.

        A preempted request gives its row back, waits again, and later reads its prompt and the answer so far
        anew. The first in order is never preempted, so there is always one that gets on.
        """
        preempted = []
        while self._reserved > self.limits.max_cached_tokens and len(self.running) > 1:
            last = max(self.running.values(), key=lambda entry: entry.rank)
            preempted.append(last.request_id)
            self._preempt(last)
        admitted = []
        for entry in sorted(self.waiting.values(), key=lambda entry: entry.rank):
            if len(self.running) >= self.limits.max_rows or not self._fits(entry):
                break  # later ones do not overtake it
            self.running[entry.request_id] = self.waiting.pop(entry.request_id)
            admitted.append(entry.request_id)
        return preempted, admitted

    def started(self, request_id: int, *, held: int) -> None:
        """Note that an admitted request's row holds the first tokens of its prompt already."""
        self.running[request_id].held = held

    def plan(self) -> StepPlan:
        """Return the next step: a token of each request that decodes, and the prompts in what is left."""
        decodes = [entry.request_id for entry in self._in_order if entry.is_decoding]
        left = self.limits.max_step_tokens - len(decodes)
        reads = self._reads(left)
        left -= sum(reads.values())
        return StepPlan(reads, decodes, min(left, self.cache_room))

    def advance(self, held: Mapping[int, int], decoding: Mapping[int, int]) -> None:
        """Note what a step did.

        Args:
            held: By request of the step, the tokens that its row holds now.
            decoding: Those that decode, with the length of prompt and answer.
        """
        for request_id, tokens in held.items():
            entry = self.running[request_id]
            entry.held = tokens
            if request_id in decoding:
                entry.is_decoding = True
                # What would have to be read after a preemption: the last token is read by the next step.
                entry.prompt_tokens = decoding[request_id] - 1

    @property
    def cache_room(self) -> int:
        """Tokens of the cache that the running requests leave free."""
        return max(0, self.limits.max_cached_tokens - self._reserved)

    @property
    def _reserved(self) -> int:
        return sum(entry.reserved for entry in self.running.values())

    @property
    def _in_order(self) -> list[Entry]:
        return sorted(self.running.values(), key=lambda entry: entry.rank)

    def _fits(self, entry: Entry) -> bool:
        """Return whether the cache holds a request beside the running ones, with room to grow."""
        if not self.running:
            return True
        together = [*self.running.values(), entry]
        growth = sum(min(_GROWTH_TOKENS, each.max_new_tokens) for each in together)
        return self._reserved + entry.reserved + growth <= self.limits.max_cached_tokens

    def _preempt(self, entry: Entry) -> None:
        self.waiting[entry.request_id] = self.running.pop(entry.request_id)
        entry.held, entry.is_decoding = 0, False

    def _reads(self, tokens: int) -> dict[int, int]:
        """Share `tokens` among the prompts that are being read.

        The first in order gets at least half, so that it gets on. The rest goes to the shortest, so that a
        short prompt does not wait for a long one.
        """
        reading = [entry for entry in self._in_order if entry.unread > 0]
        if not reading:
            return {}
        first, others = reading[0], sorted(reading[1:], key=lambda entry: entry.unread)
        for_others = min(sum(entry.unread for entry in others), tokens // 2)
        reads = {first.request_id: min(first.unread, tokens - for_others)}
        left = tokens - reads[first.request_id]
        for entry in others:
            reads[entry.request_id] = min(entry.unread, left)
            left -= reads[entry.request_id]
        return {request_id: count for request_id, count in reads.items() if count > 0}
