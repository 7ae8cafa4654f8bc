"""`RequestClock`: where a request's time goes."""

from dataclasses import dataclass, field
from time import perf_counter

from lookahead.engine.events import RequestSeconds
from lookahead.stats import GenerationStats


@dataclass(slots=True)
class RequestClock:
    """Notes when a request was submitted, had a row and emitted tokens, and adds up its steps.

    Attributes:
        submitted: When it was submitted.
        begun: When it first had a row; None before.
        first_token: When its first token came; None before.
        last_token: When its last token so far came.
        draft: Seconds of its steps spent on drafts.
        model: Likewise on forward passes.
        choose: Likewise on choosing tokens.
    """

    submitted: float = field(default_factory=perf_counter)
    begun: float | None = None
    first_token: float | None = None
    last_token: float = 0.0
    draft: float = 0.0
    model: float = 0.0
    choose: float = 0.0

    def begin(self) -> None:
        """Note that the request has a row, the first time."""
        if self.begun is None:
            self.begun = perf_counter()

    def note_tokens(self, count: int) -> None:
        """Note that tokens came, if any did."""
        if count == 0:
            return
        self.last_token = perf_counter()
        if self.first_token is None:
            self.first_token = self.last_token

    def add_step(self, before: GenerationStats, after: GenerationStats) -> None:
        """Add a step that the request took part in: the runner's counts before and after it."""
        self.draft += after.draft_s - before.draft_s + after.recycle_s - before.recycle_s
        self.model += after.model_s - before.model_s + after.cache_s - before.cache_s
        self.choose += after.verify_s - before.verify_s

    def seconds(self) -> RequestSeconds:
        """Return where the time went so far."""
        now = perf_counter()
        begun = now if self.begun is None else self.begun
        first = now if self.first_token is None else self.first_token
        last = first if self.first_token is None else self.last_token
        return RequestSeconds(
            queued=begun - self.submitted,
            prompt=first - begun,
            decode=last - first,
            draft=self.draft,
            model=self.model,
            choose=self.choose,
        )
