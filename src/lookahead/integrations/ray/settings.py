"""`ReplicaSettings`: the arguments of `build_app`, as text from a command line or typed from a YAML file."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, get_args

from lookahead.config import DEFAULT_MEMORY_BYTES, LookaheadConfig, check_bool, check_integer
from lookahead.engine.settings import DEFAULT_CACHE_BYTES, EngineSettings
from lookahead.errors import ConfigError
from lookahead.server.settings import MAX_SECONDS, ServerSettings

if TYPE_CHECKING:
    from lookahead.server.access import KeyRing

_MAX_REPLICAS = 10_000
_MAX_REQUESTS = 2**31
_MAX_UNITS = 1024
_LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
_WORDS = {"true": True, "false": False}


@dataclass(frozen=True, kw_only=True)
class ReplicaSettings:
    """What is served, by how many replicas, and how.

    Args:
        model: As for `lookahead serve --model`; every node that has a replica can read it.
        dtype: Name of the dtype of the weights.
        device: Name of a torch device; None takes the GPU that Ray gives the replica, or else the CPU.
        threads: CPU threads of a replica; None for `cpus`, rounded down, and at least 1.
        served_model_name: The name that clients use; None for that of the model.
        replicas: How many replicas there are.
        cpus: CPUs that Ray reserves for each.
        gpus: GPUs that Ray reserves for each.
        max_rows: Requests that a replica answers at once.
        max_ongoing: Requests that a replica holds, those that wait for a row included; None for twice
            `max_rows`.
        max_queued: Requests that wait at each HTTP proxy while replicas are full; others are told 503. Those
            of one burst count until Serve has given them to a replica, so give at least as many.
        retry_after_s: Seconds after which those are to ask again.
        max_model_len: The most tokens of prompt and answer; None for the model's context.
        cache_bytes: Memory of a replica for keys and values.
        prefix_cache: Keep what prompts begin with.
        route_by: "tenant" sends requests with the same `x-session-id` header to the same replica; "load"
            sends each to the less busy one of two.
        fallback_replicas: Further replicas, always the same ones, that a tenant's requests go to while its
            own one is full; 0 lets them wait.
        exchange: Whether replicas tell each other what they learn.
        exchange_every_s: Seconds between two exchanges.
        api_keys: A file of keys, as for `lookahead serve --api-keys`, on every node; None for the variable
            LOOKAHEAD_API_KEY of the replicas, or no keys.
        allow_without_key: Answer other machines although there are no keys.
        memory: A file that each replica loads at the start, if it exists, and one of them saves; on more
            than one node, in a folder that they share.
        memory_bytes: The cap of each replica's memory.
        save_memory_every_s: Seconds between two saves; 0 to save only at the end.
        drain_s: Seconds that running requests have when a replica is stopped.
        max_body_bytes: The longest body of a request.
        metrics_prefix: What the names of metrics begin with.
        model_defaults: Take sampling defaults from the model's generation config.
        decoding_length: Tokens that one forward pass verifies; "auto" chooses.
        branch_length: Maximum depth of a draft, in tokens.
        compiled_cpu: Use the compiled CPU decoder.

    Raises:
        ConfigError: A value is not allowed.
    """

    model: str = "embedded"
    dtype: str = "bfloat16"
    device: str | None = None
    threads: int | None = None
    served_model_name: str | None = None
    replicas: int = 1
    cpus: float = 1
    gpus: float = 0
    max_rows: int = 8
    max_ongoing: int | None = None
    max_queued: int = 256
    retry_after_s: int = 1
    max_model_len: int | None = None
    cache_bytes: int = DEFAULT_CACHE_BYTES
    prefix_cache: bool = True
    route_by: str = "tenant"
    fallback_replicas: int = 2
    exchange: bool = True
    exchange_every_s: float = 0.5
    api_keys: str | None = None
    allow_without_key: bool = False
    memory: str | None = None
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    save_memory_every_s: int = 300
    drain_s: int = 30
    max_body_bytes: int = 8 * 2**20
    metrics_prefix: str = "lookahead"
    model_defaults: bool = False
    decoding_length: int | Literal["auto"] = "auto"
    branch_length: int = 64
    compiled_cpu: bool = True

    def __post_init__(self) -> None:
        for name in ("model", "dtype", "route_by", "metrics_prefix"):
            _check_text(name, getattr(self, name))
        for name in ("device", "served_model_name", "api_keys", "memory"):
            if getattr(self, name) is not None:
                _check_text(name, getattr(self, name))
        if self.route_by not in ("tenant", "load"):
            _refuse("route_by", self.route_by, "'tenant' or 'load'")
        if self.dtype not in ("bfloat16", "float16", "float32", "float64"):
            _refuse("dtype", self.dtype, "'bfloat16', 'float16', 'float32' or 'float64'")
        check_integer("replicas", self.replicas, smallest=1, largest=_MAX_REPLICAS)
        check_integer("fallback_replicas", self.fallback_replicas, smallest=0, largest=_MAX_REPLICAS)
        check_integer("max_queued", self.max_queued, smallest=1, largest=_MAX_REQUESTS)
        check_integer("retry_after_s", self.retry_after_s, smallest=0, largest=MAX_SECONDS)
        check_integer("max_rows", self.max_rows, smallest=1, largest=1024)
        for name, largest in (("max_ongoing", _MAX_REQUESTS), ("threads", _MAX_UNITS)):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), smallest=1, largest=largest)
        _check_number("cpus", self.cpus, 0, _MAX_UNITS)
        _check_number("gpus", self.gpus, 0, _MAX_UNITS)
        _check_number("exchange_every_s", self.exchange_every_s, 0.01, MAX_SECONDS)
        for name in ("exchange", "allow_without_key", "model_defaults"):
            check_bool(name, getattr(self, name))
        # what the parts of a replica refuse is refused here, before there is a replica
        self.lookahead_config()
        self.engine_settings()
        self.server_settings(None)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Return the settings that arguments give; a text stands for a number or a truth value.

        Raises:
            ConfigError: A name is unknown, or a value is not allowed.
        """
        kinds: dict[str, Any] = {field.name: field.type for field in fields(cls)}
        unknown = [str(name) for name in given if name not in kinds]
        if unknown:
            message = f"{unknown[0]!r:.80} is no argument of build_app; there are {', '.join(kinds)}"
            raise ConfigError(message)
        return cls(**{name: _typed(value, kinds[name]) for name, value in given.items()})

    @property
    def name(self) -> str:
        """The name that clients use for the model."""
        return self.served_model_name or self.model

    @property
    def max_ongoing_requests(self) -> int:
        """Requests that a replica holds."""
        return 2 * self.max_rows if self.max_ongoing is None else self.max_ongoing

    @property
    def thread_count(self) -> int:
        """CPU threads of a replica."""
        return max(1, int(self.cpus)) if self.threads is None else self.threads

    def lookahead_config(self) -> LookaheadConfig:
        """Return the settings of drafting.

        Raises:
            ConfigError: A value is not allowed.
        """
        return LookaheadConfig(
            decoding_length=self.decoding_length,
            branch_length=self.branch_length,
            compiled_cpu=self.compiled_cpu,
            max_bytes=self.memory_bytes,
        )

    def engine_settings(self) -> EngineSettings:
        """Return the settings of a replica's engine; Serve limits how many requests wait in it.

        Raises:
            ConfigError: A value is not allowed.
        """
        return EngineSettings(
            max_rows=self.max_rows,
            max_step_tokens=max(EngineSettings().max_step_tokens, 2 * self.max_rows),
            max_request_tokens=self.max_model_len,
            cache_bytes=self.cache_bytes,
            prefix_cache=self.prefix_cache,
        )

    def server_settings(self, keys: "KeyRing | None") -> ServerSettings:
        """Return the settings of a replica's endpoints.

        Args:
            keys: Who may ask for what; None if there are no keys.

        Raises:
            ConfigError: A value is not allowed.
        """
        return ServerSettings(
            model_name=self.name,
            keys=keys,
            memory_file=None if self.memory is None else Path(self.memory),
            save_memory_every_s=self.save_memory_every_s,
            drain_s=self.drain_s,
            max_body_bytes=self.max_body_bytes,
            metrics_prefix=self.metrics_prefix,
            uses_model_defaults=self.model_defaults,
            allowed_hosts=_LOOPBACK if keys is None and not self.allow_without_key else (),
        )


def _typed(value: Any, kind: Any) -> Any:
    """Return what a text stands for, by the kind of its field; all that is not one as it is."""
    kinds = get_args(kind) or (kind,)
    if not isinstance(value, str) or str in kinds:
        return value
    if bool in kinds:
        return _WORDS.get(value.lower(), value)
    for number in (int, float):
        if number in kinds:
            try:
                return number(value)
            except ValueError:
                continue
    return value  # a word such as "auto", or refused where it is checked


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        _refuse(name, value, "a text that is not empty")


def _check_number(name: str, value: object, smallest: float, largest: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not smallest <= float(value) <= largest or math.isnan(float(value)):  # type: ignore[arg-type]
        _refuse(name, value, f"a number from {smallest} to {largest}")


def _refuse(name: str, value: object, allowed: str) -> NoReturn:
    message = f"{name}={value!r:.80} is not allowed; give {allowed}"
    raise ConfigError(message)
