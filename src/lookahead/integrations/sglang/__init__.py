"""Lookahead in SGLang: its NGRAM worker verifies our draft trees. Not run on hardware yet."""
