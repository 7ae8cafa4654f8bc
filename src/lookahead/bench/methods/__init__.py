"""The methods of generating that a benchmark compares."""
