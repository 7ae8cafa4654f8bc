"""Which replica a tenant's requests go to: settings of Serve's own routers."""

from typing import Any

CONSISTENT_HASH_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
"""Ray 2.60's: the header `x-session-id` (or that of RAY_SERVE_SESSION_ID_HEADER_KEY) chooses the replica."""


def router_config(route_by: str, fallback_replicas: int) -> dict[str, Any]:
    """Return the `request_router_config` of a deployment.

    Args:
        route_by: "tenant" for the same replica for the same tenant; "load" for Serve's default.
        fallback_replicas: Further replicas for a tenant whose own one is full.
    """
    if route_by == "load":
        return {}
    return {
        "request_router_class": CONSISTENT_HASH_ROUTER,
        "request_router_kwargs": {"num_fallback_replicas": fallback_replicas},
    }
