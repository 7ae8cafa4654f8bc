"""The generation mode: from what `generate` hands over to what it returns."""
