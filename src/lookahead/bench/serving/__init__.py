"""The experiment `serving`: requests that arrive over time, answered by an engine and by its alternatives."""
