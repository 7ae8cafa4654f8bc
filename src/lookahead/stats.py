"""What a generation did, in counts and seconds."""

from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(kw_only=True)
class GenerationStats:
    """Counts and times of one or more requests.

    Attributes:
        requests: answers begun (prefills).
        tokens: tokens emitted, the first of each answer included.
        steps: forwards after prefill, plain ones too, counted for each row that was in them.
        forwards: the same, counted once however many rows were in them.
        draft_tokens: tokens drafted, that is verified beside the current one.
        accepted_tokens: drafted tokens that the model itself would have produced.
        prefill_s: seconds in prefill.
        recycled_tokens: accepted tokens that were drafted from the model's recycled logits alone.
        measure_s: seconds measuring how long forwards take, once for a model; kept on disk.
        draft_s: seconds proposing drafts and learning what was emitted.
        recycle_s: seconds picking the model's likeliest successors out of its logits and keeping them.
        model_s: seconds in forwards after prefill.
        cache_s: seconds keeping accepted paths in the cache.
        verify_s: seconds choosing tokens: processors, sampling, stopping criteria, streamers.
        smallest_margin: of all tokens emitted greedily, the least that one's score, processed, was ahead of
            the next best one's: 0 is a tie. None where all were drawn. Only where this is small can text be
            another one with other rounding.
    """

    requests: int = 0
    tokens: int = 0
    steps: int = 0
    forwards: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    recycled_tokens: int = 0
    prefill_s: float = 0.0
    measure_s: float = 0.0
    draft_s: float = 0.0
    recycle_s: float = 0.0
    model_s: float = 0.0
    cache_s: float = 0.0
    verify_s: float = 0.0
    smallest_margin: float | None = None

    @property
    def mean_acceptance_length(self) -> float:
        """Tokens after the first ÷ steps (the paper's EDL), the mean of all rows; 1.0 before any step."""
        return (self.tokens - self.requests) / self.steps if self.steps else 1.0

    @property
    def decode_s(self) -> float:
        """Seconds of decoding: everything but prefill and measuring."""
        return self.draft_s + self.recycle_s + self.model_s + self.cache_s + self.verify_s

    def count_forward(self, *, nodes: Mapping[int, int], tokens: Mapping[int, int]) -> None:
        """Count a forward: by row, how many nodes it verified and tokens it emitted, the bonus included."""
        self.forwards += 1
        self.steps += len(nodes)
        self.tokens += sum(tokens.values())
        self.draft_tokens += sum(nodes.values()) - len(nodes)
        self.accepted_tokens += sum(tokens.values()) - len(nodes)

    def add(self, other: "GenerationStats") -> None:
        """Add another's counts and seconds to this one's; of the smallest margins the smaller one stays."""
        for field in fields(self):
            if field.name != "smallest_margin":
                setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        margins = [margin for margin in (self.smallest_margin, other.smallest_margin) if margin is not None]
        self.smallest_margin = min(margins, default=None)

    def as_dict(self) -> dict[str, float | None]:
        """All counts and seconds, the smallest margin and the mean acceptance length, by name."""
        counts = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**counts, "mean_acceptance_length": self.mean_acceptance_length}
