"""The compiled CPU decoder: a whole step in one call."""
