"""Prompts, texts and traces to measure with."""
