"""The generation mode: from a call of `generate` to its result."""
