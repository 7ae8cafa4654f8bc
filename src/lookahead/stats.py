"""Counts and times of generation."""

from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(kw_only=True)
class GenerationStats:
    """Counts and times of one call, or the sum over several calls.

    Attributes:
        requests: Answers begun, one for each row of a batch.
        tokens: Tokens emitted, the first of each answer included.
        row_steps: Forward passes after prefill, counted once for each row they served.
        forwards: Forward passes after prefill, counted once for the whole batch.
        captured_forwards: Those of them that were replays of a CUDA graph.
        draft_tokens: Tokens drafted, which forward passes verified besides the current one.
        accepted_tokens: Drafted tokens that the model confirmed.
        recycled_tokens: Accepted tokens that were drafted only from the model's recycled logits.
        prefill_s: Seconds in prefill.
        draft_s: Seconds proposing drafts and learning from the emitted tokens.
        recycle_s: Seconds picking the top-k next tokens from the logits and storing them.
        model_s: Seconds in forward passes after prefill.
        cache_s: Seconds keeping accepted paths in the KV cache.
        verify_s: Seconds choosing tokens: processors, sampling, stopping criteria, streamers.
        smallest_margin: Smallest top-1 minus top-2 score over all greedy tokens; 0 is a tie, None where no
            token was chosen greedily. Only where it is small can other rounding change the text.
        replay_speedup: Seconds of the model's own code ÷ seconds of a replay, the largest of the first
            replays, which are compared; None where no step was captured.
    """

    requests: int = 0
    tokens: int = 0
    row_steps: int = 0
    forwards: int = 0
    captured_forwards: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    recycled_tokens: int = 0
    prefill_s: float = 0.0
    draft_s: float = 0.0
    recycle_s: float = 0.0
    model_s: float = 0.0
    cache_s: float = 0.0
    verify_s: float = 0.0
    smallest_margin: float | None = None
    replay_speedup: float | None = None

    @property
    def mean_acceptance_length(self) -> float:
        """Tokens per row and forward pass (the paper's EDL), first tokens left out; 1.0 before any step."""
        return (self.tokens - self.requests) / self.row_steps if self.row_steps else 1.0

    @property
    def acceptance_rate(self) -> float:
        """Accepted tokens ÷ drafted tokens; 0.0 where nothing was drafted."""
        return self.accepted_tokens / self.draft_tokens if self.draft_tokens else 0.0

    @property
    def decode_s(self) -> float:
        """Seconds of decoding: everything but prefill."""
        return self.draft_s + self.recycle_s + self.model_s + self.cache_s + self.verify_s

    def count_forward(
        self, *, nodes: Mapping[int, int], tokens: Mapping[int, int], is_captured: bool = False
    ) -> None:
        """Count a forward pass after prefill.

        Args:
            nodes: The number of nodes it verified for each row, the current token included.
            tokens: The number of tokens each row emitted, the bonus token included.
            is_captured: Whether it was the replay of a graph.
        """
        self.forwards += 1
        self.captured_forwards += is_captured
        self.row_steps += len(nodes)
        self.tokens += sum(tokens.values())
        self.draft_tokens += sum(nodes.values()) - len(nodes)
        self.accepted_tokens += sum(tokens.values()) - len(nodes)

    def add(self, other: "GenerationStats") -> None:
        """Add the counts and seconds of `other`; keep the smaller margin and the larger speed-up."""
        for field in fields(self):
            if field.name not in ("smallest_margin", "replay_speedup"):
                setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        margins = [margin for margin in (self.smallest_margin, other.smallest_margin) if margin is not None]
        self.smallest_margin = min(margins, default=None)
        speedups = [found for found in (self.replay_speedup, other.replay_speedup) if found is not None]
        self.replay_speedup = max(speedups, default=None)

    def as_dict(self) -> dict[str, float | None]:
        """Return all counts, seconds and ratios under names for a metrics system: `prefill_seconds`, …."""
        values = {_metric_name(field.name): getattr(self, field.name) for field in fields(self)}
        ratios = ("mean_acceptance_length", "acceptance_rate")
        return {**values, **{name: getattr(self, name) for name in ratios}}


def _metric_name(field: str) -> str:
    return f"{field.removesuffix('_s')}_seconds" if field.endswith("_s") else field
