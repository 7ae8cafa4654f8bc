"""The library's cache interface over the arena."""
