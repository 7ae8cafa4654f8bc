"""Everything Lookahead knows about transformers' private parts."""
