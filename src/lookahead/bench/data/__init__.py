"""Prompts, texts and traces."""
