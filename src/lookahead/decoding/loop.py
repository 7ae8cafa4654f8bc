"""The one loop: draft, verify in one forward, accept, keep, learn (arXiv 2312.12728, section 4.1)."""

from time import perf_counter
from typing import Protocol

from torch import Tensor

from lookahead.decoding.acceptance import accept
from lookahead.decoding.emission import Emission
from lookahead.decoding.recycling import likeliest_successors
from lookahead.drafting.tree import DraftTree, Int32Array
from lookahead.stats import GenerationStats


class StepModel(Protocol):
    """What the loop asks of a model; it owns the model's cache."""

    def prefill(self) -> Tensor:
        """Read the prompt; return logits [k, V] after its last k tokens, the first new token's last."""

    def forward(self, tree: DraftTree) -> Tensor:
        """Verify a draft tree behind what the cache holds; return logits [n, V]."""

    @property
    def levels_left(self) -> int:
        """How deep a draft may go before the model runs out of positions."""

    def keep(self, path: list[int]) -> None:
        """Keep in the cache, of the tree just forwarded, only the nodes of `path`."""


class Drafter(Protocol):
    """One request's view of the draft memory."""

    def get_ready(self) -> None:
        """Find out what drafting needs to know, now that the model has read the prompt."""

    def propose(self, most_levels: int) -> DraftTree:
        """Return a draft after the last token learned, at most `most_levels` deep."""

    def learn(self, tokens: list[int]) -> None:
        """Remember emitted tokens."""

    @property
    def recycles(self) -> bool:
        """Whether `recycle` is wanted after this step."""

    def recycle_prompt(self, successors: Int32Array) -> None:
        """Remember what the model holds most likely after each of the prompt's last tokens, int32 [m, k]."""

    def recycle(self, draft: DraftTree, path: list[int], successors: Int32Array) -> None:
        """Remember what the model holds most likely after each node, int32 [n, k]; `path` was accepted."""

    def adapt(self, nodes: int, tokens: int, seconds: dict[str, float]) -> None:
        """Take into account what a step yielded and took: seconds by the names they have in the stats."""


def decode(model: StepModel, drafter: Drafter, emission: Emission, stats: GenerationStats) -> None:
    """Generate until `emission` is finished; its tokens are the result, `stats` is brought up to date."""
    clock = _Clock(stats)
    logits = model.prefill()
    clock.charge("prefill_s")
    drafter.learn([emission.emit(logits[-1])])
    stats.requests += 1
    stats.tokens += 1
    clock.charge("verify_s")
    if not emission.finished:
        drafter.get_ready()
        clock.charge("measure_s")
        if drafter.recycles:
            drafter.recycle_prompt(likeliest_successors(logits))
            clock.charge("recycle_s")
    clock.lap()
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
        clock.charge("draft_s")
        if drafter.recycles:
            drafter.recycle(draft, accepted.path, likeliest_successors(logits))
            clock.charge("recycle_s")
        stats.count_step(nodes=len(draft), tokens=len(accepted.tokens))
        drafter.adapt(len(draft), len(accepted.tokens), clock.lap())


class _Clock:
    """Charges the time since the last charge to one of the stats' seconds."""

    def __init__(self, stats: GenerationStats) -> None:
        self._stats = stats
        self._last = perf_counter()
        self._lap: dict[str, float] = {}

    def charge(self, name: str) -> None:
        """Charge the time since the last charge."""
        now = perf_counter()
        seconds, self._last = now - self._last, now
        setattr(self._stats, name, getattr(self._stats, name) + seconds)
        self._lap[name] = self._lap.get(name, 0.0) + seconds

    def lap(self) -> dict[str, float]:
        """Return what was charged since the last call, by name."""
        seconds, self._lap = self._lap, {}
        return seconds
