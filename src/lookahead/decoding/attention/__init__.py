"""Tree attention: which slots a node sees, as masks and tables."""
