"""`ServerSettings`: what `lookahead serve` lets one choose besides the engine."""

from dataclasses import dataclass
from pathlib import Path

from lookahead.config import check_integer
from lookahead.errors import ConfigError
from lookahead.server.access import KeyRing

MAX_SECONDS = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Settings of a server.

    Args:
        model_name: The name that clients use.
        keys: Who may ask for what; None if everybody may ask for everything.
        memory_file: Where the draft memory is saved; None for nowhere.
        save_memory_every_s: Seconds between two saves; 0 to save only at the end.
        drain_s: Seconds that running requests have after the first SIGTERM.
        max_body_bytes: The longest body of a request.
        metrics_prefix: What the names of metrics begin with.
        uses_model_defaults: Whether the sampling settings of the model's generation config are the defaults
            of requests, instead of OpenAI's.
        allowed_hosts: The names of this server in requests' `Host` header; empty for any. It keeps web pages
            from reaching a server without keys under a name of their own (DNS rebinding).

    Raises:
        ConfigError: A value is out of range.
    """

    model_name: str
    keys: KeyRing | None = None
    memory_file: Path | None = None
    save_memory_every_s: int = 300
    drain_s: int = 30
    max_body_bytes: int = 8 * 2**20
    metrics_prefix: str = "lookahead"
    uses_model_defaults: bool = False
    allowed_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_integer("save_memory_every", self.save_memory_every_s, smallest=0, largest=MAX_SECONDS)
        check_integer("drain_seconds", self.drain_s, smallest=0, largest=MAX_SECONDS)
        check_integer("max_body_bytes", self.max_body_bytes, smallest=1024, largest=2**31)
        if not self.metrics_prefix.isidentifier() or not self.metrics_prefix.isascii():
            message = f"metrics_prefix={self.metrics_prefix!r:.80} is not allowed; give letters and digits"
            raise ConfigError(message)
