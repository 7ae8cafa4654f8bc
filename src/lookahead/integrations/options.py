"""`IntegrationOptions`: what may be set where Lookahead runs inside another system."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn, Self

from lookahead.config import DEFAULT_MEMORY_BYTES, MAX_MEMORY_BYTES, MIN_MEMORY_BYTES
from lookahead.drafting.store import DEFAULT_NAMESPACE, check_namespaces
from lookahead.errors import ConfigError

_MAX_SECONDS = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class IntegrationOptions:
    """Settings of the memory of one replica.

    Args:
        memory_file: A file that the memory is loaded from, if it exists, and saved to; None for none.
        save_every_s: Seconds between two saves.
        max_bytes: Hard cap in bytes of the memory.
        exchange_folder: A folder through which replicas exchange what they learned; None for none.
        exchange_every_s: Seconds between two exchanges.
        default_namespace: The namespace of requests that name none.
        remember: Whether answers are remembered; without it, requests draft from their own text and from
            what was loaded.
        budget: "auto" for as many draft tokens as pay; "all" for as many as the engine allows, which is
            slower under load.

    Raises:
        ConfigError: A value is not allowed.
    """

    memory_file: str | None = None
    save_every_s: float = 60.0
    max_bytes: int = DEFAULT_MEMORY_BYTES
    exchange_folder: str | None = None
    exchange_every_s: float = 1.0
    default_namespace: str = DEFAULT_NAMESPACE
    remember: bool = True
    budget: str = "auto"

    def __post_init__(self) -> None:
        for name in ("memory_file", "exchange_folder"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and value):
                _refuse(name, value, "a path, or null")
        for name in ("save_every_s", "exchange_every_s"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0.01 <= value <= _MAX_SECONDS:
                _refuse(name, value, f"seconds from 0.01 to {_MAX_SECONDS}")
        if type(self.max_bytes) is not int or not MIN_MEMORY_BYTES <= self.max_bytes <= MAX_MEMORY_BYTES:
            _refuse("max_bytes", self.max_bytes, f"an integer from {MIN_MEMORY_BYTES} to {MAX_MEMORY_BYTES}")
        if type(self.remember) is not bool:
            _refuse("remember", self.remember, "true or false")
        if self.budget not in ("auto", "all"):
            _refuse("budget", self.budget, '"auto" or "all"')
        check_namespaces(self.default_namespace)
        if self.memory_file is not None and not Path(self.memory_file).resolve().parent.is_dir():
            _refuse("memory_file", self.memory_file, "a file in a folder that exists")

    @classmethod
    def of(cls, given: object) -> Self:
        """Return the options that a mapping gives, such as a part of an engine's configuration.

        Raises:
            ConfigError: It is no mapping, has a name that is no option, or a value that is not allowed.
        """
        if given is None:
            return cls()
        names = [field.name for field in fields(cls)]
        if not isinstance(given, Mapping):
            _refuse("lookahead", given, f"an object with any of {', '.join(names)}")
        unknown = [str(name) for name in given if name not in names]
        if unknown:
            message = f"lookahead.{unknown[0]:.80} is no option; the options are {', '.join(names)}"
            raise ConfigError(message)
        values: dict[str, Any] = {str(name): value for name, value in given.items()}
        return cls(**values)


def _refuse(name: str, value: object, allowed: str) -> NoReturn:
    message = f"{name}={value!r:.80} is not allowed; give {allowed}"
    raise ConfigError(message)
