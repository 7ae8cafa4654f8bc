"""Small decoders with random weights, and forward passes over texts that are token ids."""

import torch

from lookahead.backends.cpu.decoder import CpuDecoder, DecoderWeights, LayerWeights
from lookahead.backends.cpu.tables import TreeTables
from lookahead.backends.cpu.team import torch_thread_team
from lookahead.decoding.attention.tree_mask import tree_positions
from lookahead.decoding.attention.visibility import TreeRow
from lookahead.drafting.tree import DraftTree

HIDDEN, INNER, WIDTH, VOCABULARY, LAYERS = 64, 96, 32, 131, 2


def random_weights(
    dtype=torch.float32, heads=4, key_heads=2, window=None, seed=0, *, hidden=HIDDEN, inner=INNER
):
    """A small decoder with everything that a layer may have."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(*shape):
        return (torch.randn(shape, generator=generator) * shape[-1] ** -0.5).to(dtype)

    def norm(size):
        return (1 + 0.2 * torch.randn(size, generator=generator)).to(dtype)

    own, shared = heads * WIDTH, key_heads * WIDTH
    layers = [
        LayerWeights(
            norm=norm(hidden),
            projections=[matrix(own, hidden), matrix(shared, hidden), matrix(shared, hidden)],
            out=matrix(hidden, own),
            inner_norm=norm(hidden),
            gate=matrix(inner, hidden),
            up=matrix(inner, hidden),
            down=matrix(hidden, inner),
            biases=[matrix(own), matrix(shared), None] if index == 0 else [None] * 3,
            head_norms=[norm(WIDTH), norm(WIDTH)] if index == 1 else [None] * 2,
            window=window if index == 1 else None,
        )
        for index in range(LAYERS)
    ]
    return DecoderWeights(
        layers, norm(hidden), matrix(VOCABULARY, hidden), heads, key_heads, WIDTH, 1e-5, WIDTH**-0.5
    )


def embedded(tokens, dtype, hidden=HIDDEN):
    """Each token's own numbers, [n, hidden]."""
    table = torch.randn(64, hidden, generator=torch.Generator().manual_seed(9)).to(dtype)
    return table[torch.as_tensor(tokens).long()]


def rope_cos_sin(positions, dtype):
    """Cosines and sines, [n, width]."""
    angles = positions[:, None] * 10000.0 ** -(torch.arange(WIDTH // 2) * 2 / WIDTH)
    angles = torch.cat([angles, angles], dim=1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def empty_cache(weights, slots, rows=1):
    shape = (LAYERS, rows, weights.key_heads, slots, WIDTH)
    return tuple(torch.full(shape, torch.nan, dtype=weights.output.dtype) for _ in range(2))


def decoder_of(weights):
    return CpuDecoder(weights, torch_thread_team())


def read(decoder, weights, rows, cache, *, size=None, cache_rows=None, logits_of=None):
    """Run a forward pass over rows of a text and a tree each; return logits of all nodes, or the wanted ones.

    Each row has `size` nodes, copies of node 0 after its own ones, or as many as its tree if None.
    """
    dtype = weights.output.dtype
    sizes = [len(row.tree) if size is None else size for row in rows]
    tokens = [
        row.tree.token_ids[node if node < len(row.tree) else 0]
        for row, count in zip(rows, sizes, strict=True)
        for node in range(count)
    ]
    positions = torch.cat(
        [
            tree_positions(row.tree, row.length - row.left_padding, count)
            for row, count in zip(rows, sizes, strict=True)
        ]
    )
    trees = TreeTables.of(rows, size=size, cache_rows=cache_rows, windows=decoder.windows)
    given, rope = embedded(tokens, dtype, weights.last_norm.numel()), rope_cos_sin(positions, dtype)
    return decoder.forward(given, rope, trees, cache, logits_of)


def step(decoder, weights, tree, length, cache):
    """Run one row's forward pass behind `length` tokens; return logits [n, vocabulary]."""
    return read(decoder, weights, [TreeRow(tree, length)], cache)


def read_one_by_one(decoder, weights, tokens, cache, length=0):
    """Read a text token by token; return logits [n, vocabulary]."""
    return torch.cat(
        [
            step(decoder, weights, DraftTree.root_only(int(token)), length + index, cache)
            for index, token in enumerate(tokens)
        ]
    )
