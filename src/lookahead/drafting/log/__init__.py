"""TokenLog, the default draft store: a ring of tokens with hash chains, and the model's successors."""
