"""Ray: replicas of the server behind Ray Serve, their exchange, and settings of `ray.serve.llm`.

Importing this needs no Ray; `build_app` and a `RayExchange` in use do.
"""

from lookahead.integrations.ray.application import build_app as build_app
from lookahead.integrations.ray.exchange import RayExchange as RayExchange
from lookahead.integrations.ray.llm import llm_config as llm_config

__all__ = ["RayExchange", "build_app", "llm_config"]
