"""The ways of generating that are measured."""
