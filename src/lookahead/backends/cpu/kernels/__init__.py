"""The arithmetic of the compiled CPU decoder.

- `pointers`: raw memory in compiled functions; `vectors`: LLVM code on vectors of sixteen floats.
- `matrix`, `panels`, `amx`, `products`: matrix products from packed weights, in vectors and tile registers.
- `gguf`: weights in the blocks of GGUF files, unpacked just before they are multiplied.
- `rows` and `elementwise`: copies and sums of rows; norms, rotary positions, gated units, rounding.
- `attention`: attention of draft trees and prompts over the KV cache.
"""
