"""Transformers' cache interface over the arena."""
