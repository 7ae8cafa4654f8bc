"""Calls of tools in an answer."""
