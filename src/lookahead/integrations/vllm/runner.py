"""`StepView`: what a step of vLLM's model runner tells the proposer, and how it is obtained.

The interface for custom proposers hands over tokens alone. What else is needed stands in the runner: the ids
and parameters of its requests, what the step had scheduled, when it began.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from inspect import currentframe
from typing import Any

_log = logging.getLogger("lookahead.integrations.vllm")
_METHODS = ("execute_model", "propose_draft_token_ids")


@dataclass(frozen=True, kw_only=True)
class StepView:
    """A step of the runner.

    Attributes:
        request_ids: Of each row.
        requests: The state of all requests by id, those that are preempted included.
        scheduled_tokens: Tokens of the step, of prompts and answers.
        draft_tokens: Those of them that were drafts.
        began: When it began, by `time.perf_counter`.
    """

    request_ids: list[str]
    requests: dict[str, Any]
    scheduled_tokens: int
    draft_tokens: int
    began: float


class BoundRunner:
    """Listens to the runner that has made the proposer.

    Args:
        runner: The runner.
    """

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._began = time.perf_counter()
        self._view: StepView | None = None
        self._wrap("execute_model", self._step_begins)
        self._wrap("propose_draft_token_ids", self._step_ends)

    @classmethod
    def find(cls) -> "BoundRunner | None":
        """Return the runner in whose constructor this is called; None, and a warning, if there is none."""
        frame = currentframe()  # the interface gives no way to it
        while frame is not None:
            caller = frame.f_locals.get("self")
            if all(callable(getattr(caller, name, None)) for name in _METHODS):
                return cls(caller)
            frame = frame.f_back
        _log.warning(
            "this vLLM's model runner is not known: requests are told apart by their tokens, all in the "
            "default namespace, and their answers are not cut at their ends"
        )
        return None

    def take(self) -> StepView | None:
        """Return the step that has just been done, once."""
        view, self._view = self._view, None
        return view

    def _wrap(self, name: str, listen: Callable[..., None]) -> None:
        """Call `listen` with the same arguments before a method of this one runner."""
        method = getattr(self._runner, name)

        def listened(*args: Any, **kwargs: Any) -> Any:
            listen(*args, **kwargs)
            return method(*args, **kwargs)

        setattr(self._runner, name, listened)

    def _step_begins(self, *_: Any, **__: Any) -> None:
        self._began = time.perf_counter()

    def _step_ends(self, scheduler_output: Any, *_: Any, **__: Any) -> None:
        drafts = scheduler_output.scheduled_spec_decode_tokens
        self._view = StepView(
            request_ids=self._runner.input_batch.req_ids,
            requests=self._runner.requests,
            scheduled_tokens=scheduler_output.total_num_scheduled_tokens,
            draft_tokens=sum(len(tokens) for tokens in drafts.values()),
            began=self._began,
        )
