"""vLLM with our proposer beside vLLM without it, each engine in a process and an environment of its own."""
