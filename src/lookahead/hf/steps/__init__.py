"""The forward passes of a call."""
