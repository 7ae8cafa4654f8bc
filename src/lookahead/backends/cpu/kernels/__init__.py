"""The arithmetic of the compiled CPU decoder.

- `pointers`: raw memory in compiled functions; `vectors`: LLVM code on vectors of sixteen floats.
- `tiles` and `products`: matrix products of a few rows.
- `elementwise`: norms, rotary positions, gated units, rounding.
- `blocks` and `attention`: attention of draft trees over the KV cache.
"""
