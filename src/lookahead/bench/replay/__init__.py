"""Measuring drafts without a model."""
