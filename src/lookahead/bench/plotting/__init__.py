"""From results to plots."""
