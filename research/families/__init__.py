"""Tiny random models of transformers' families, and the table of how each is verified."""
