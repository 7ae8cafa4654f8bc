"""`EngineSettings`: how much an engine takes on, frozen and validated."""

from dataclasses import dataclass

from lookahead.config import check_bool, check_integer

DEFAULT_CACHE_BYTES = 4 * 2**30


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Settings of an engine.

    Args:
        max_rows: Requests that are served at once.
        max_step_tokens: Tokens of one step, of all rows together: the current token of each row, its draft,
            and the parts of prompts that are read beside them. Fewer mean shorter pauses of those who are
            being answered while a long prompt is read.
        max_request_tokens: Tokens of prompt and answer together; None for the model's context.
        max_queued: Requests that wait for a row; more are refused.
        max_queued_tokens: Tokens of their prompts, all together.
        cache_bytes: Memory for keys and values: of the requests that are served and, in what they leave free,
            of the prefix cache. When it is full, the request that came last starts anew later.
        prefix_cache: Keep what prompts and answers begin with, to read it once.

    Raises:
        ConfigError: A value is out of range.
    """

    max_rows: int = 8
    max_step_tokens: int = 256
    max_request_tokens: int | None = None
    max_queued: int = 1024
    max_queued_tokens: int = 2**24
    cache_bytes: int = DEFAULT_CACHE_BYTES
    prefix_cache: bool = True

    def __post_init__(self) -> None:
        check_integer("max_rows", self.max_rows, smallest=1, largest=4096)
        check_integer("max_step_tokens", self.max_step_tokens, smallest=2 * self.max_rows, largest=2**20)
        if self.max_request_tokens is not None:
            check_integer("max_request_tokens", self.max_request_tokens, smallest=2, largest=2**31)
        check_integer("max_queued", self.max_queued, smallest=0, largest=2**31)
        check_integer("max_queued_tokens", self.max_queued_tokens, smallest=1, largest=2**40)
        check_integer("cache_bytes", self.cache_bytes, smallest=2**16, largest=2**50)
        check_bool("prefix_cache", self.prefix_cache)
