"""What the CPU decoder's kernels compute, naively, in double precision where that is stricter."""

import math
from typing import Any

import torch


def naive_softmax(
    scores: list[float], first: int, end: int, scale: float, state: tuple[float, float]
) -> tuple[list[float], float, tuple[float, float]]:
    """Return weights, the decay of earlier totals, and the new largest score and sum of weights."""
    largest, total = state
    seen = [scale * score for score in scores[first:end]]
    top = max([largest, *seen])
    decay = math.exp(max(largest - top, -745.0))
    weights = [math.exp(score - top) for score in seen]
    everything = [0.0] * first + weights + [0.0] * (len(scores) - max(first, end))
    return everything[: len(scores)], decay, (top, total * decay + sum(weights))


def naive_rope(head: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Return a head rotated as transformers rotates it, in its dtype."""
    left, right = head.chunk(2)
    return head * cosine + torch.cat([-right, left]) * sine


def naive_norm(numbers: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return the RMS norm as transformers computes it."""
    floats = numbers.float()
    normal = floats * torch.rsqrt(floats.pow(2).mean() + epsilon)
    return weight * normal.to(weight.dtype)


def naive_attention(
    rows: list[Any],
    cache_rows: list[int],
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    window: int | None,
) -> torch.Tensor:
    """Return float64 [B, n, heads, width]: each node by itself, over the slots of its row's text and path."""
    groups = queries.shape[2] // keys.shape[1]
    attended = torch.full(queries.shape, torch.nan, dtype=torch.float64)
    for index, (row, cache_row) in enumerate(zip(rows, cache_rows, strict=True)):
        for node in range(len(row.tree)):
            text = [*range(row.length), *(row.length + above for above in row.tree.path_to(node))]
            seen = text[max(row.left_padding, len(text) - (window or len(text))) :]
            of_keys, of_values = (
                cache[cache_row, :, seen].double().repeat_interleave(groups, dim=0)
                for cache in (keys, values)
            )
            scores = torch.einsum("hw,hsw->hs", queries[index, node].double(), of_keys)
            shares = (scores * queries.shape[3] ** -0.5).softmax(1)
            attended[index, node] = torch.einsum("hs,hsw->hw", shares, of_values)
    return attended


def naive_decoder(weights: Any, stream: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> Any:
    """Return float64 logits [n, vocabulary] of a text of embeddings, all places at once."""
    stream, size = stream.double(), len(stream)
    places = torch.arange(size)
    angles = cosines.double()[:, None], sines.double()[:, None]
    for layer in weights.layers:
        normal = _normed(stream, layer.norm, weights.epsilon)
        parts = []
        for matrix, bias in zip(layer.projections, layer.biases, strict=True):
            product = normal @ matrix.double().T + (0 if bias is None else bias.double())
            parts.append(product.view(size, -1, weights.width))
        for part, norm in enumerate(layer.head_norms):
            shown = parts[part] if norm is None else _normed(parts[part], norm, weights.epsilon)
            left, right = shown.chunk(2, dim=-1)
            parts[part] = shown * angles[0] + torch.cat([-right, left], dim=-1) * angles[1]
        groups = weights.heads // weights.key_heads
        queries, keys, values = parts[0], *(part.repeat_interleave(groups, dim=1) for part in parts[1:])
        scores = torch.einsum("qhw,khw->hqk", queries, keys) * weights.scale
        distance = places[:, None] - places[None]
        hidden = (distance < 0) | (distance >= (layer.window or size))
        shares = scores.masked_fill(hidden, -math.inf).softmax(2)
        attended = torch.einsum("hqk,khw->qhw", shares, values).reshape(size, -1)
        stream = stream + attended @ layer.out.double().T
        normal = _normed(stream, layer.inner_norm, weights.epsilon)
        opened = torch.nn.functional.silu(normal @ layer.gate.double().T) * (normal @ layer.up.double().T)
        stream = stream + opened @ layer.down.double().T
    return _normed(stream, weights.last_norm, weights.epsilon) @ weights.output.double().T


def _normed(numbers: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    mean = numbers.pow(2).mean(dim=-1, keepdim=True)
    return weight.double() * numbers * torch.rsqrt(mean + epsilon)
