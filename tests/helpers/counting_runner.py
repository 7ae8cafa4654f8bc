"""A runner of numbers for an engine without a model: some prompts make it fail."""

import threading
from dataclasses import dataclass

from lookahead.engine.protocol import Progress
from lookahead.engine.request import Request
from lookahead.errors import ConfigError
from lookahead.stats import GenerationStats

FAILS_TO_BEGIN, FAILS_IN_STEP, FAILS_ALONE, FAILS_TO_END, IS_REFUSED = range(100, 105)
"""First tokens of prompts that make the runner fail."""
ENDLESS = 105
"""First token of prompts whose answers end by a cancel only."""


@dataclass
class Counted:
    """A request's state: its answer so far is 0, 1, 2, … up to `emitted`."""

    request: Request
    emitted: int = 0
    held: int = 0

    @property
    def first(self):
        return self.request.prompt_ids[0]

    @property
    def length(self):
        return len(self.request.prompt_ids) + self.emitted

    @property
    def to_read(self):
        return self.length - 1 if self.emitted else self.length


class Counting:
    """A runner that answers with 0, 1, 2, …

    Args:
        max_rows: Rows that it can hold.
        gate: Each step waits for it, if it is given.
        max_cached_tokens: Tokens that fit into its cache.
    """

    def __init__(self, max_rows=2, gate=None, max_cached_tokens=10_000):
        self.max_rows, self.max_request_tokens, self.max_cached_tokens = max_rows, 1000, max_cached_tokens
        self.stats, self.prefix_tokens, self.gate = GenerationStats(), 0, gate
        self.rows, self.steps, self.max_rows_at_once, self.is_closed = {}, [], 0, False
        self.begun, self.threads = threading.Event(), set()

    def prepare(self, request):
        if request.prompt_ids[0] == IS_REFUSED:
            message = "refused"
            raise ConfigError(message)
        return Counted(request)

    def begin(self, request_id, state):
        self.threads.add(threading.current_thread())
        if state.first == FAILS_TO_BEGIN:
            message = "begin"
            raise RuntimeError(message)
        assert request_id not in self.rows
        self.rows[request_id], state.held = state, 0
        self.max_rows_at_once = max(self.max_rows_at_once, len(self.rows))
        return 0

    def step(self, plan, publish):
        del publish
        self.threads.add(threading.current_thread())
        self.begun.set()
        if self.gate is not None:
            assert self.gate.acquire(timeout=30)
        self.steps.append(plan.requests)
        if any(self.rows[row].first == FAILS_IN_STEP for row in plan.requests):
            message = "step"
            raise RuntimeError(message)
        return {row: self.progress(self.rows[row], plan.reads.get(row, 1)) for row in plan.requests}

    def progress(self, state, tokens):
        if state.first == FAILS_ALONE:
            return Progress(error=RuntimeError("alone"))
        if state.first == ENDLESS:  # its row does not grow, or the cache would be full at some time
            state.emitted += 1
            return Progress(held=state.held, is_decoding=True, tokens=[state.emitted - 1])
        is_answered = state.emitted > 0 and state.held < state.to_read  # it is read anew
        state.held += tokens
        emitted = [] if is_answered or state.held < state.to_read else [state.emitted]
        state.emitted += len(emitted)
        return Progress(
            held=state.held,
            is_decoding=state.emitted > 0 and state.held == state.to_read,
            tokens=emitted,
            draft_tokens=2,
            accepted_tokens=1,
            is_finished=state.emitted == state.request.max_tokens,
        )

    def release(self, request_id):
        del self.rows[request_id]

    def end(self, request_id, state):
        assert self.rows.pop(request_id, state) is state
        if state.first == FAILS_TO_END:
            message = "end"
            raise RuntimeError(message)

    def shrink_prefixes(self, max_tokens):
        assert max_tokens >= 0

    def close(self):
        self.is_closed = True


class AtOnce(Counting):
    """A runner whose step is a whole answer, published token by token."""

    def step(self, plan, publish):
        (row,) = plan.requests
        for token in range(self.rows[row].request.max_tokens - 1):
            if not publish(row, Progress(tokens=[token])):
                return {row: Progress()}
            self.begun.set()
            if self.gate is not None:
                assert self.gate.acquire(timeout=30)
        return {row: Progress(tokens=[self.rows[row].request.max_tokens - 1], is_finished=True)}
