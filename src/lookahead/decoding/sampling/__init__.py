"""Choosing tokens exactly as `generate` does."""
