"""The paper's draft store: insertion, retrieval, pruning (sections 4.2.1 to 4.2.3)."""
