"""The arithmetic of the compiled CPU decoder.

- `pointers`: raw memory in compiled functions; `vectors`: LLVM code on vectors of sixteen floats.
- `panels`, `amx` and `products`: matrix products from packed weights, in vectors and in tile registers.
- `rows` and `elementwise`: copies and sums of rows; norms, rotary positions, gated units, rounding.
- `attention`: attention of draft trees and prompts over the KV cache.
"""
