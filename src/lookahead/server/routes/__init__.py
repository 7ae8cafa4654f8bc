"""The endpoints, one module for each group."""

from fastapi import APIRouter

from lookahead.server.routes import chat, completions, health, memory, models, responses, tokens


def all_routers() -> list[APIRouter]:
    """Return the routers of all endpoints."""
    modules = (chat, completions, responses, models, tokens, memory, health)
    return [module.router for module in modules]
