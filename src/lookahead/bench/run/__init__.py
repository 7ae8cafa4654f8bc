"""Run a benchmark."""
