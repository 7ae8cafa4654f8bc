"""Programs that answer prompts, one per system.

Each runs in its system's environment and imports only `serving`, which needs the standard library alone.
"""
