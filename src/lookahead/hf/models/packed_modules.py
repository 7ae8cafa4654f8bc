"""Modules whose weights stay in the blocks of a GGUF file; the compiled CPU decoder reads them in place.

Their own `forward` unpacks the weights each time: right, but slow.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # its usual name
from torch import Tensor, nn

from lookahead.backends.cpu.packed import PackedMatrix
from lookahead.errors import UnsupportedModelError


class _PackedModule(nn.Module):
    """A module with one packed matrix.

    Args:
        matrix: The weights.

    Attributes:
        packed: The weights as the compiled CPU decoder reads them.
    """

    def __init__(self, matrix: PackedMatrix) -> None:
        super().__init__()
        self.register_buffer("blocks", matrix.blocks, persistent=False)
        self._packed = matrix

    @property
    def packed(self) -> PackedMatrix:
        """The weights; of the blocks that the module has now."""
        blocks: Any = self.blocks
        return self._packed if blocks is self._packed.blocks else self._packed.with_blocks(blocks)

    @property
    def weight(self) -> Tensor:
        """The weights as numbers, unpacked anew each time."""
        return self.packed.numbers()

    def _save_to_state_dict(self, *_arguments: Any, **_keywords: Any) -> None:
        message = (
            "packed weights cannot be saved: they are those of a GGUF file; copy that file, or load the "
            "model without packed=True"
        )
        raise UnsupportedModelError(message)

    def _check_dtype(self, dtype: torch.dtype) -> None:
        if dtype != self._packed.dtype:
            message = (
                f"packed weights are unpacked to {self._packed.dtype}, but their inputs are {dtype}; load "
                f"the model anew with dtype={dtype}, or without packed=True"
            )
            raise UnsupportedModelError(message)


class PackedLinear(_PackedModule):
    """Stands in for `nn.Linear`.

    Args:
        matrix: The weights [outputs, inputs].
        bias: [outputs], or None.
    """

    def __init__(self, matrix: PackedMatrix, bias: Tensor | None = None) -> None:
        super().__init__(matrix)
        self.out_features, self.in_features = matrix.shape
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the products as `nn.Linear` does, with the unpacked weights."""
        self._check_dtype(inputs.dtype)
        return F.linear(inputs, self.weight, self.bias)


class PackedEmbedding(_PackedModule):
    """Stands in for `nn.Embedding`.

    Args:
        matrix: The weights [tokens, width].
        padding_idx: As of `nn.Embedding`.
    """

    def __init__(self, matrix: PackedMatrix, padding_idx: int | None = None) -> None:
        super().__init__(matrix)
        self.num_embeddings, self.embedding_dim = matrix.shape
        self.padding_idx = padding_idx

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens' embeddings, unpacked row by row."""
        blocks: Any = self.blocks
        rows = blocks.index_select(0, tokens.reshape(-1))
        return self._packed.with_blocks(rows).numbers().view(*tokens.shape, self.embedding_dim)


def matrix_of(module: Any) -> Tensor | PackedMatrix:
    """Return the weights of a linear module as the compiled CPU decoder takes them: aliases, never copies."""
    if isinstance(module, PackedLinear):
        return module.packed
    weight: Tensor = module.weight
    return weight.detach()


def outputs_of(module: Any) -> int:
    """Return how many outputs a linear module has, or embeddings an embedding module."""
    if isinstance(module, _PackedModule):
        return module.packed.shape[0]
    return int(module.weight.shape[0])
