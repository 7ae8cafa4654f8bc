"""Weights in the formats of GGUF files, unpacked to the model's numbers just before they are multiplied.

- `formats`: the formats that are supported, and the sizes of their blocks.
- `blocks`: LLVM code that reads the scales and the numbers of a format's blocks.
- `tables`: the same by tables, where the processor has the instructions.
- `unpacking`: the loops over sixteen rows of weights, one compiled function per format and use.
- `tiled_products`: how products call them.
"""
