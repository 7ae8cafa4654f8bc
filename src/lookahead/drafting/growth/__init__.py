"""Building a draft tree best first from candidates with probabilities, whichever store they come from."""
