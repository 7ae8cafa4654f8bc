"""The commands that measure: bench, compare, profile, replay."""
