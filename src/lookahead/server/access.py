"""Who may ask: API keys, the namespaces that each opens, and how a request's namespace is found."""

import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lookahead.drafting.store import DEFAULT_NAMESPACE, fault_in_name
from lookahead.errors import ConfigError, NotFoundError
from lookahead.server.http.errors import ApiError
from lookahead.server.protocol.common import AnswerBody, LookaheadOptions

_MIN_KEY_CHARACTERS = 8
_SALT_SEPARATOR = "\x1f"
"""Between a namespace and the digest of a `cache_salt`; no client can name it."""
_SALT_DIGITS = 32
_FORM = '{"keys": [{"key": "…", "namespaces": ["tenant-a"], "admin": false}]}'


@dataclass(frozen=True)
class Access:
    """What a request may do.

    Attributes:
        namespaces: The namespaces that it may use, its default one first; None for all.
        is_admin: Whether it may inspect, warm, save and forget the memory.
    """

    namespaces: tuple[str, ...] | None = None
    is_admin: bool = False

    def scope_of(self, body: AnswerBody) -> tuple[str, tuple[str, ...]]:
        """Return the namespace of a body and those that it reads besides.

        Raises:
            ApiError: The key does not open them, or allows no such priority.
        """
        self.check_priority(body.priority)
        return self.scope(body.lookahead, body.cache_salt)

    def scope(self, options: LookaheadOptions, cache_salt: str | None) -> tuple[str, tuple[str, ...]]:
        """Return the namespace of a request and those that it reads besides.

        A `cache_salt` separates requests within a namespace, as vLLM's does: drafts, prefix cache and all.

        Raises:
            ApiError: A name is not allowed (400), or not opened by the key (403).
        """
        namespace = options.namespace
        if namespace is None:
            namespace = DEFAULT_NAMESPACE if self.namespaces is None else self.namespaces[0]
        self.check(namespace)
        for other in options.reads:
            self.check(other)
        if cache_salt is not None:
            digest = hashlib.sha256(cache_salt.encode()).hexdigest()[:_SALT_DIGITS]
            namespace = f"{namespace}{_SALT_SEPARATOR}{digest}"
        return namespace, tuple(options.reads)

    def check_priority(self, priority: int) -> None:
        """Refuse a priority before all others' to those who are not administrators.

        Raises:
            ApiError: The key is not an administrator's.
        """
        if priority < 0 and not self.is_admin:
            message = (
                f"priority is {priority}; below 0 it comes before others, which needs an administrator's key"
            )
            raise ApiError(403, message, param="priority", code="admin_key_needed")

    def check(self, namespace: str) -> None:
        """Refuse a namespace that a client may not use.

        Raises:
            ApiError: The name is not allowed (400), or not opened by the key (403).
        """
        fault = fault_in_client_name(namespace)
        if fault is not None:
            message = f"namespace {namespace!r:.80} is not allowed: {fault}"
            raise ApiError(400, message, param="lookahead.namespace")
        if self.namespaces is not None and namespace not in self.namespaces:
            message = f"this key does not open the namespace {namespace!r:.80}"
            raise ApiError(403, message, param="lookahead.namespace", code="namespace_not_allowed")


def without_salt(namespace: str) -> str:
    """Return the namespace that a client named, of one that a salt may have divided."""
    return namespace.partition(_SALT_SEPARATOR)[0]


def fault_in_client_name(namespace: str) -> str | None:
    """Return why clients cannot use a name for a namespace; None if they can."""
    fault = fault_in_name(namespace)
    if fault is None and not namespace.isprintable():
        return "give printable characters only"
    if fault is None and len(namespace.encode()) > MAX_CLIENT_NAMESPACE_BYTES:
        return f"give at most {MAX_CLIENT_NAMESPACE_BYTES} bytes in UTF-8"
    return fault


MAX_CLIENT_NAMESPACE_BYTES = 200
"""So that a salt's digest fits behind the name."""


class KeyRing:
    """API keys, and what each opens. Only digests of the keys are kept.

    Args:
        keys: Each key with its access.

    Raises:
        ConfigError: There is no key, one is given twice, or it is too short.
    """

    def __init__(self, keys: Sequence[tuple[str, Access]]) -> None:
        for key, access in keys:
            if not isinstance(key, str) or len(key) < _MIN_KEY_CHARACTERS or not key.isascii():
                message = f"an API key has at least {_MIN_KEY_CHARACTERS} ASCII characters; give a longer one"
                raise ConfigError(message)
            if access.namespaces is not None and not access.namespaces:
                message = "an API key opens at least one namespace; list one, or leave namespaces out for all"
                raise ConfigError(message)
            for namespace in access.namespaces or ():
                fault = fault_in_client_name(namespace)
                if fault is not None:
                    message = f"namespace {namespace!r:.80} of an API key is not allowed: {fault}"
                    raise ConfigError(message)
        self._accesses = [(_digest(key), access) for key, access in keys]
        if not keys or len({digest for digest, _ in self._accesses}) < len(keys):
            message = "API keys must be at least one, each given once"
            raise ConfigError(message)

    @classmethod
    def of_plain_keys(cls, keys: Sequence[str]) -> "KeyRing":
        """Return a ring whose keys open every namespace and the memory's endpoints."""
        return cls([(key, Access(is_admin=True)) for key in keys])

    @classmethod
    def load(cls, path: Path) -> "KeyRing":
        """Read a file of keys with their namespaces: see `docs/serving.md`.

        Raises:
            ConfigError: The file is malformed.
            NotFoundError: It cannot be read.
        """
        try:
            content = json.loads(path.read_text())
        except OSError as error:
            message = f"cannot read the keys in {path}: {error.strerror}"
            raise NotFoundError(message) from None
        except ValueError:
            message = f"{path} is not JSON; give {_FORM}"
            raise ConfigError(message) from None
        entries = content.get("keys") if isinstance(content, dict) else None
        if not isinstance(entries, list):
            message = f"{path} has no list of keys; give {_FORM}"
            raise ConfigError(message)
        return cls([_entry(path, entry) for entry in entries])

    def access_of(self, key: str) -> Access | None:
        """Return what a key opens; None if it is none of ours. The time taken says nothing about the keys."""
        given, found = _digest(key), None
        for digest, access in self._accesses:
            if hmac.compare_digest(digest, given):
                found = access
        return found


def _entry(path: Path, entry: Any) -> tuple[str, Access]:
    known = {"key", "namespaces", "admin"}
    if not isinstance(entry, dict) or not isinstance(entry.get("key"), str) or set(entry) - known:
        message = f"a key in {path} is malformed; give {_FORM}"
        raise ConfigError(message)
    namespaces, is_admin = entry.get("namespaces"), entry.get("admin", False)
    if namespaces is not None and (
        not isinstance(namespaces, list) or not all(isinstance(name, str) for name in namespaces)
    ):
        message = f"the namespaces of a key in {path} are no list of names; give {_FORM}"
        raise ConfigError(message)
    if not isinstance(is_admin, bool):
        message = f"admin of a key in {path} is neither true nor false; give {_FORM}"
        raise ConfigError(message)
    return entry["key"], Access(None if namespaces is None else tuple(namespaces), is_admin)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
