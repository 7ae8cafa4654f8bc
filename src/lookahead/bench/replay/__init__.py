"""Replay: measure drafts without a model."""
