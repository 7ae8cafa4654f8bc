"""What an SGLang request says of its namespace, and which namespaces hold external corpora."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lookahead.drafting.store import check_namespaces, fault_in_name
from lookahead.errors import ConfigError

NAMESPACE, READS, REMEMBER = "lookahead_namespace", "lookahead_reads", "lookahead_remember"
"""Keys of a request's `custom_params`."""
CORPUS_PREFIX = "corpus:"
"""What the namespaces of external corpora begin with. All requests read them; none may belong to one."""
_REFUSED = "refused"
"""Where requests are that name a namespace that is not allowed. Nothing is remembered there."""


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """What drafting needs to know of a request.

    Attributes:
        namespace: The namespace of its tokens.
        reads: Further namespaces to draft from.
        remember: Whether its answer is remembered.
    """

    namespace: str
    reads: tuple[str, ...] = ()
    remember: bool = True

    @classmethod
    def of(cls, request: Any, default_namespace: str) -> "RequestOptions":
        """Return the options of a request: its namespace by name, else by what separates its prefix cache.

        One that names a namespace that is not allowed remembers nothing and reads nothing of others: SGLang
        has taken it already.

        Args:
            request: A `Req`.
            default_namespace: The namespace of requests that say nothing.
        """
        given = request.sampling_params.custom_params
        given = given if isinstance(given, Mapping) else {}
        namespace = given.get(NAMESPACE)
        if namespace is None:
            namespace = _separated(request) or default_namespace
        reads = given.get(READS) or ()
        try:
            reads = (reads,) if isinstance(reads, str) else tuple(reads)
            check_namespaces(namespace, reads)
        except (ConfigError, TypeError):
            return cls(namespace=_REFUSED, remember=False)
        if namespace.startswith(CORPUS_PREFIX):
            return cls(namespace=_REFUSED, remember=False)
        remember = given.get(REMEMBER, True) not in (False, 0, "false")
        return cls(namespace=namespace, reads=reads, remember=remember)


def corpus_namespace(corpus_id: str) -> str:
    """Return the namespace of an external corpus."""
    name = CORPUS_PREFIX + corpus_id
    return name if fault_in_name(name) is None else CORPUS_PREFIX + _digest(corpus_id)


def _separated(request: Any) -> str | None:
    """Return the namespace that a request's `cache_salt` and `extra_key` mean; None if it has neither.

    SGLang appends the number of a LoRA adapter to the key; it changes with each start, so it does not count.
    """
    salt, key = request.cache_salt, request.extra_key
    if key and request.lora_id:
        key = key.removesuffix(request.lora_id)
    if salt and key:
        return f"cache_salt:{_digest(f'{len(salt)}:{salt}{key}')}"
    if salt:
        return f"cache_salt:{salt}"
    return f"extra_key:{key}" if key else None


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
