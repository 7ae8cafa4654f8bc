"""Growing a draft tree: best first, from candidates with probabilities."""
