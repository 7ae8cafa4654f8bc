"""Attention functions registered with the library."""
