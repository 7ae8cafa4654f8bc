"""The compiled CPU decoder: the forward pass of a whole decoder in one call.

- `decoder`: the weights, the workspace and the call; `unsupported_reason` says what it cannot serve.
- `layer_attention`: only its attention, one layer per call, for models that run their own code otherwise.
- `packed`: matrices that stay in the blocks of a GGUF file.
- `tables`: the draft trees as arrays; `plan`: the fields of the table that a step reads.
- `step`: a forward pass and one layer's attention, as every thread runs them; `layer_products`: the norms and
  matrix products of a layer; `team`: the threads.
- `kernels`: the arithmetic, from pointers up to attention.

Why it is built this way: docs/design/cpu-decoder.md.
"""
