"""`usage`, and other parts of answers that several endpoints share."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from lookahead.engine.events import Finish, FinishReason, Usage
from lookahead.server.answers.running import Delta


def usage_body(usages: Iterable[Usage]) -> dict[str, Any]:
    """Return the usage of an answer; the prompt of several choices counts once.

    Accepted and rejected prediction tokens are those of all drafts, a `prediction` among them.
    """
    given = list(usages)
    prompt = max((usage.prompt_tokens for usage in given), default=0)
    completion = sum(usage.completion_tokens for usage in given)
    accepted = sum(usage.accepted_tokens for usage in given)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {
            "cached_tokens": max((usage.cached_tokens for usage in given), default=0),
        },
        "completion_tokens_details": {
            "accepted_prediction_tokens": accepted,
            "rejected_prediction_tokens": sum(usage.draft_tokens for usage in given) - accepted,
        },
    }


def finish_reason(finish: Finish) -> str:
    """Return OpenAI's word for how an answer ended."""
    return "length" if finish.reason is FinishReason.LENGTH else "stop"


def stop_reason(finish: Finish, end_tokens: tuple[int, ...]) -> int | str | None:
    """Return the stop string or token that ended an answer, as vLLM; None for the model's own end."""
    return None if finish.stop in end_tokens else finish.stop


def lookahead_body(delta: Delta) -> dict[str, Any]:
    """Return what a chunk says about its token: its source, its forward pass, and at the end the times."""
    made: dict[str, Any] = {}
    if delta.tokens:
        made |= {"source": delta.sources[-1].value, "forward": delta.forwards[-1]}
    if delta.finish is not None:
        made["seconds"] = {name: round(value, 6) for name, value in asdict(delta.finish.seconds).items()}
    return made
