"""`lookahead demo`, and the documents that it answers questions about."""
