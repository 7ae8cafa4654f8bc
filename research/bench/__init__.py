"""`python -m research.bench`: `lookahead bench` with experiments, more methods, batches and reports."""
