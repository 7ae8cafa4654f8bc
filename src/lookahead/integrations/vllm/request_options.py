"""What a vLLM request says of itself: its namespace, and where its answer ends."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lookahead.drafting.store import check_namespaces
from lookahead.errors import ConfigError

NAMESPACE, READS, REMEMBER = "lookahead_namespace", "lookahead_reads", "lookahead_remember"
"""Keys of `SamplingParams.extra_args`, over HTTP of `vllm_xargs`."""
SALT = "lookahead_cache_salt"


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """The part of a request's parameters that drafting needs.

    Attributes:
        namespace: The namespace of its tokens.
        reads: Further namespaces to draft from.
        remember: Whether its answer is remembered.
        stop_tokens: Tokens that end the answer.
        max_tokens: The most tokens of the answer; None if only the context ends it.
    """

    namespace: str
    reads: tuple[str, ...] = ()
    remember: bool = True
    stop_tokens: frozenset[int] = frozenset()
    max_tokens: int | None = None

    @classmethod
    def of(cls, sampling_params: Any, *, default_namespace: str, remember: bool) -> "RequestOptions":
        """Return the options of a request: its namespace by name, else by its `cache_salt`.

        A request that names a namespace that is not allowed remembers nothing and is alone in its namespace:
        vLLM has taken it already.
        """
        given: Mapping[str, Any] = getattr(sampling_params, "extra_args", None) or {}
        stops: set[int] = set()
        if not sampling_params.ignore_eos:
            stops |= set(getattr(sampling_params, "_all_stop_token_ids", ()))
            eos = getattr(sampling_params, "_eos_token_id", None)
            stops |= set() if eos is None else {eos}
        stops |= set(sampling_params.stop_token_ids or ())
        answer: dict[str, Any] = {
            "stop_tokens": frozenset(stops),
            "max_tokens": sampling_params.max_tokens,
        }
        namespace = given.get(NAMESPACE)
        if namespace is None and SALT in given:
            namespace = f"cache_salt:{given[SALT]}"
        reads = given.get(READS, ())
        reads = (reads,) if isinstance(reads, str) else tuple(reads)
        try:
            check_namespaces(default_namespace if namespace is None else namespace, reads)
        except ConfigError:
            return cls(namespace="refused", remember=False, **answer)
        return cls(
            namespace=default_namespace if namespace is None else namespace,
            reads=reads,
            remember=remember and given.get(REMEMBER, True) not in (False, 0, "false"),
            **answer,
        )
