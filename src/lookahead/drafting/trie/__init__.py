"""TokenTrie, the paper's draft store (arXiv 2312.12728, section 4.2): insertion, pruning, retrieval."""
