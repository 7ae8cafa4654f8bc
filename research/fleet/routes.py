"""Which replica serves which request."""

from enum import StrEnum
from hashlib import blake2b

import numpy as np

from lookahead.drafting.arrays import Int64Array
from research.fleet.library import Library
from research.fleet.traffic import Traffic


class Route(StrEnum):
    """What a router goes by."""

    TENANT = "tenant"
    """A hash of the tenant: each tenant has one replica."""
    PREFIX = "prefix"
    """A hash of the prompt's first tokens: each question has one replica."""
    RANDOM = "random"
    ROUND_ROBIN = "round-robin"


def routed(
    route: Route, traffic: Traffic, library: Library, *, replicas: int, prefix_tokens: int
) -> Int64Array:
    """Return the number of the replica of each request.

    Args:
        route: What the router goes by.
        traffic: The requests.
        library: Their prompts.
        replicas: How many replicas there are.
        prefix_tokens: How many tokens of a prompt are hashed.
    """
    count = len(traffic)
    if route is Route.RANDOM:
        return np.random.default_rng([traffic.settings.seed, 1]).integers(0, replicas, count)
    if route is Route.ROUND_ROBIN:
        return np.arange(count) % replicas
    found: dict[tuple[int, ...], int] = {}
    chosen = np.zeros(count, np.int64)
    asked = zip(traffic.tenants.tolist(), traffic.questions.tolist(), strict=True)
    for index, (tenant, question) in enumerate(asked):
        key = (tenant,) if route is Route.TENANT else (tenant, question)
        if key not in found:
            is_tenant = route is Route.TENANT
            text = namespace_of(tenant).encode()
            data = text if is_tenant else library.prefix(tenant, question, prefix_tokens).tobytes()
            found[key] = int.from_bytes(blake2b(data, digest_size=8).digest()) % replicas
        chosen[index] = found[key]
    return chosen


def namespace_of(tenant: int) -> str:
    """Return the namespace of a tenant."""
    return f"tenant-{tenant}"
