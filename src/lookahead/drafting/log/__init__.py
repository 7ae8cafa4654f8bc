"""The default draft store: a ring of tokens with hash chains."""
