"""The one loop: draft, verify in one forward, accept, keep, learn (arXiv 2312.12728, section 4.1)."""

from time import perf_counter
from typing import Protocol

from torch import Tensor

from lookahead.decoding.acceptance import accept
from lookahead.decoding.emission import Emission
from lookahead.drafting.tree import DraftTree
from lookahead.stats import GenerationStats


class StepModel(Protocol):
    """What the loop asks of a model; it owns the model's cache."""

    def prefill(self) -> Tensor:
        """Read the prompt; return the logits [V] of the first token."""

    def forward(self, tree: DraftTree) -> Tensor:
        """Verify a draft tree behind what the cache holds; return logits [n, V]."""

    @property
    def levels_left(self) -> int:
        """How deep a draft may go before the model runs out of positions."""

    def keep(self, path: list[int]) -> None:
        """Keep in the cache, of the tree just forwarded, only the nodes of `path`."""


class Drafter(Protocol):
    """One request's view of the draft memory."""

    def propose(self, most_levels: int) -> DraftTree:
        """Return a draft after the last token learned, at most `most_levels` deep."""

    def learn(self, tokens: list[int]) -> None:
        """Remember emitted tokens."""


def decode(model: StepModel, drafter: Drafter, emission: Emission, stats: GenerationStats) -> None:
    """Generate until `emission` is finished; its tokens are the result, `stats` is brought up to date."""
    clock = _Clock(stats)
    logits = model.prefill()
    clock.charge("prefill_s")
    drafter.learn([emission.emit(logits)])
    stats.requests += 1
    stats.tokens += 1
    clock.charge("verify_s")
    while not emission.finished:
        draft = drafter.propose(most_levels=min(emission.remaining - 1, model.levels_left))
        clock.charge("draft_s")
        logits = model.forward(draft)
        clock.charge("model_s")
        accepted = accept(draft, logits, emission)
        clock.charge("verify_s")
        model.keep(accepted.path)
        clock.charge("model_s")
        drafter.learn(accepted.tokens)
        stats.steps += 1
        stats.tokens += len(accepted.tokens)
        stats.draft_tokens += len(draft) - 1
        stats.accepted_tokens += len(accepted.path) - 1
        clock.charge("draft_s")


class _Clock:
    """Charges the time since the last charge to one of the stats' seconds."""

    def __init__(self, stats: GenerationStats) -> None:
        self._stats = stats
        self._last = perf_counter()

    def charge(self, seconds: str) -> None:
        now = perf_counter()
        setattr(self._stats, seconds, getattr(self._stats, seconds) + now - self._last)
        self._last = now
