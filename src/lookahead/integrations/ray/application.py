"""`build_app`: the server in replicas, as a Ray Serve application."""

from typing import Any

from lookahead.errors import MissingDependencyError
from lookahead.integrations.ray.routing import router_config
from lookahead.integrations.ray.settings import ReplicaSettings

DEPLOYMENT = "Lookahead"
"""The deployment's name, by which a Serve config overrides what is set here."""
_SAVE_S = 15
"""How long a replica has after its requests have ended, to exchange and to save."""


def build_app(args: dict[str, Any]) -> Any:
    """Return the application of the server in replicas, with all endpoints of `lookahead serve`.

        serve run lookahead.integrations.ray:build_app model=embedded replicas=2

    In a Serve config, `import_path` names this function and `args` has the arguments.

    Args:
        args: Those of `ReplicaSettings`.

    Raises:
        ConfigError: An argument is unknown, or its value is not allowed.
        MissingDependencyError: Ray Serve is not installed, or older than 2.60.
    """
    settings = ReplicaSettings.of(args)
    try:
        from ray import serve  # noqa: PLC0415  # the arguments are checked without it
        from ray.serve.config import BackpressureConfig  # noqa: PLC0415  # likewise

        from lookahead.integrations.ray.replica import ServedReplica  # noqa: PLC0415  # it needs FastAPI
    except ImportError as error:
        message = f"this needs Ray Serve 2.60 or newer ({error}): pip install 'lookahead-llm[ray]'"
        raise MissingDependencyError(message) from error
    deployment = serve.deployment(
        name=DEPLOYMENT,
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
        max_ongoing_requests=settings.max_ongoing_requests,
        max_queued_requests=settings.max_queued,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=settings.retry_after_s),
        graceful_shutdown_wait_loop_s=1.0,
        graceful_shutdown_timeout_s=float(settings.drain_s + _SAVE_S),
        request_router_config=router_config(settings.route_by, settings.fallback_replicas),
    )
    return deployment(serve.ingress()(ServedReplica)).bind(settings)
