"""Random sessions: calls with one Lookahead over a model that changes between and within them, or Ctrl-C."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from helpers.interrupts import Interrupt
from helpers.model_changes import ADAPTER_CHANGES, CHANGES, Change, with_adapters
from helpers.same_text import text_or_error
from helpers.tiny_models import tiny_model
from lookahead import Lookahead, LookaheadConfig
from lookahead.errors import UnsupportedModelError
from research.families.families import VOCABULARY

FAMILIES = {"fused-llama": 5, "fused-qwen3": 3, "fused-mistral": 3, "fused-qwen2": 2, "llama": 2, "gemma3": 2}
FAMILIES |= {"qwen2_moe": 1, "mixtral": 1, "phi3": 1, "adapters": 3}
DISPLACING = {"layers_shared", "layers_swapped", "first_layer_deleted"}
"""Within a call, these are an error: layers would write to each other's places in the cache."""


@dataclass(frozen=True)
class Session:
    """Calls of one model, in plain values.

    Attributes:
        seed: What it was drawn from.
        family: Of the tiny models; "adapters" is one with two of them.
        decoding_length: For `LookaheadConfig`.
        calls: What happens in each call.
    """

    seed: int
    family: str
    decoding_length: int | str
    calls: list["Call"]


@dataclass(frozen=True)
class Call:
    """A call and what changes.

    Attributes:
        before: Numbers of the changes that are made before the call and undone after it.
        within: Number of the change that a callback makes; None for none.
        after_tokens: After how many tokens it makes it.
        by: The callback: "criterion" or "processor".
        prompts: A row of tokens each, equally long.
        sampled: Whether tokens are sampled.
        interrupted_at: Line of Python at which Ctrl-C comes, of those that the call runs; None for none.
    """

    before: tuple[int, ...]
    within: int | None
    after_tokens: int
    by: str
    prompts: tuple[tuple[int, ...], ...]
    sampled: bool
    interrupted_at: int | None


@dataclass
class SessionTally:
    """What became of the calls."""

    compared: int = 0
    refused_by_both: int = 0
    interrupted: int = 0
    changed_text: int = 0
    accepted_tokens: int = 0
    differences: list[str] = field(default_factory=list)

    def summary(self) -> str:
        return (
            f"{self.compared} calls compared, {self.changed_text} of them of a changed model, "
            f"{self.refused_by_both} refused by both, {self.interrupted} interrupted, "
            f"{len(self.differences)} differences; {self.accepted_tokens} tokens came from drafts"
        )


def drawn_session(seed: int) -> Session:
    """Draw a session. The same seed gives the same one."""
    random = Random(f"session {seed}")
    family = random.choices(list(FAMILIES), list(FAMILIES.values()))[0]
    changes = len(changes_of(family))
    calls = []
    for _ in range(3):
        piece = [random.randrange(1, VOCABULARY) for _ in range(random.randint(2, 7))]
        prompt = tuple((piece * 3)[: random.randint(4, 14)])
        calls.append(
            Call(
                before=tuple(random.sample(range(changes), random.choice([0, 0, 1, 1, 2]))),
                within=random.randrange(changes) if random.random() < 0.5 else None,
                after_tokens=random.randint(1, 12),
                by=random.choice(["criterion", "processor"]),
                prompts=(prompt,) * random.choice([1, 1, 1, 2, 3]),
                sampled=random.random() < 0.4,
                interrupted_at=random.randint(1, 9000) if random.random() < 0.25 else None,
            )
        )
    return Session(seed, family, random.choice(["auto", 4, 8, 16]), calls)


def changes_of(family: str) -> list[Change]:
    return ADAPTER_CHANGES if family == "adapters" else CHANGES


def try_session(session: Session, tally: SessionTally) -> None:
    """Do the calls of a session with and without Lookahead."""
    model = with_adapters(tiny_model("llama")) if session.family == "adapters" else tiny_model(session.family)
    lookahead = Lookahead(LookaheadConfig(decoding_length=session.decoding_length))
    for number, call in enumerate(session.calls):
        if call.interrupted_at is not None:
            run = lambda call=call: outcome(session, call, model, lookahead)  # noqa: E731
            tally.interrupted += Interrupt(call.interrupted_at).run(run)
            if lookahead.memory.store._requests:  # nothing else shows it
                tally.differences.append(f"call {number} left a request open\n    {session}")
        expected = outcome(session, call, model, None)
        if session.seed % 2 == 0 and isinstance(expected, list):
            lookahead.memory.warm(expected)  # drafts then go on past the change
        actual = outcome(session, call, model, lookahead)
        if actual != expected and not is_displaced(session, call, actual):
            texts = f"generate {expected!r:.600}\n    with Lookahead {actual!r:.600}"
            tally.differences.append(f"call {number}: {texts}\n    {session}")
            return
        tally.compared += 1
        tally.refused_by_both += isinstance(expected, type)
        tally.changed_text += bool(call.before) or call.within is not None
    tally.accepted_tokens += lookahead.stats.accepted_tokens


def is_displaced(session: Session, call: Call, actual: object) -> bool:
    """Return whether a call ended in an error because its layers were displaced meanwhile."""
    within = None if call.within is None else changes_of(session.family)[call.within].__name__
    return within in DISPLACING and actual is UnsupportedModelError


def outcome(session: Session, call: Call, model: Any, lookahead: Lookahead | None) -> object:
    """Return the text of a call, or the type of its error; the model is as it was after it."""
    changes = changes_of(session.family)
    generate: Callable[..., Any] = model.generate
    if lookahead is not None:
        generate = lambda *given, **settings: lookahead.generate(model, *given, **settings)  # noqa: E731
    settings: dict[str, Any] = {"max_new_tokens": 18, "do_sample": call.sampled, "pad_token_id": 0}
    if call.sampled:
        settings |= {"temperature": 0.8, "top_k": 20}
    torch.manual_seed(session.seed)
    with ExitStack() as undo:
        for number in call.before:
            try_change(changes[number], model, undo)
        if call.within is not None:
            kind = {"criterion": Changing, "processor": ChangingProcessor}[call.by]
            apply = changes[call.within]
            callback = kind(lambda: try_change(apply, model, undo), len(call.prompts[0]) + call.after_tokens)
            settings["stopping_criteria" if call.by == "criterion" else "logits_processor"] = [callback]
        return text_or_error(lambda: generate(torch.tensor(call.prompts), **settings))


def try_change(change: Change, model: Any, undo: ExitStack) -> None:
    """Change a model, if it has what is changed."""
    with ExitStack() as own:
        try:
            change(model, own)
        except (AttributeError, KeyError, IndexError, TypeError):
            return
        undo.push(own.pop_all())


class Changing(StoppingCriteria):
    """Calls a function once the text has some length."""

    def __init__(self, apply, length):
        self.apply, self.length = apply, length

    def __call__(self, token_ids, _scores, **_):
        if token_ids.shape[1] == self.length:
            self.apply()
        return torch.zeros(len(token_ids), dtype=torch.bool)


class ChangingProcessor(LogitsProcessor):
    def __init__(self, apply, length):
        self.criterion = Changing(apply, length)

    def __call__(self, token_ids, scores):
        self.criterion(token_ids, scores)
        return scores
