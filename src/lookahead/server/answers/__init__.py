"""From a body to the engine's requests, and from their events to what a client reads."""
