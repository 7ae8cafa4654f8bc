"""`EngineStats`: what an engine is doing and has done."""

from dataclasses import dataclass, field

from lookahead.stats import GenerationStats


@dataclass(frozen=True, kw_only=True)
class EngineStats:
    """A snapshot of an engine.

    Attributes:
        running: Requests that have a row.
        waiting: Requests that wait for one.
        finished: Requests that ended, by reason.
        preemptions: How often a request gave its row back to start anew later.
        steps: Steps so far.
        prompt_tokens: Tokens of all prompts of requests that ended.
        cached_tokens: How many of them the prefix cache held.
        completion_tokens: Tokens of their answers.
        cache_tokens: Tokens that the rows hold.
        max_cache_tokens: The most they may hold.
        prefix_tokens: Tokens that the prefix cache holds.
        prefix_queries: Tokens of prompts that were looked up in the prefix cache.
        prefix_hits: How many of them it held.
        drafts: Drafts of a row that were verified.
        accepted_by_depth: How many drafts were right down to depth 1, 2, ….
        generation: Counts and seconds of the forward passes.
    """

    running: int = 0
    waiting: int = 0
    finished: dict[str, int] = field(default_factory=dict)
    preemptions: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cache_tokens: int = 0
    max_cache_tokens: int = 0
    prefix_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    drafts: int = 0
    accepted_by_depth: tuple[int, ...] = ()
    generation: GenerationStats = field(default_factory=GenerationStats)
