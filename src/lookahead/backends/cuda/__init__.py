"""CUDA graphs: a step is one launch."""
