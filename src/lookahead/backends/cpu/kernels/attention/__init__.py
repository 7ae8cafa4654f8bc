"""Attention over the KV cache.

- `pieces`: the division of a layer's attention into pieces of work, spans and their sums.
- `block_sums`: one block of keys and values added to the sums of some queries.
- `blocks`: a block in vectors, whose lanes are keys; `lanes`: in tile registers, whose lanes are queries.
- `workspace`: what it reads, and the memory of a thread.
"""
