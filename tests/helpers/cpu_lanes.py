"""The CPU decoder's kernels on lanes and rows as functions of tensors."""

import numpy as np
import torch

from helpers.cpu_kernels import holds_bfloat16, wrapper
from lookahead.backends.cpu.kernels import rows
from lookahead.backends.cpu.kernels.attention import lanes
from lookahead.backends.cpu.kernels.attention.blocks import BLOCK
from lookahead.backends.cpu.kernels.pointers import bfloat16_pointer, float_pointer, int_pointer
from lookahead.backends.cpu.kernels.vectors import LANES


@wrapper
def _softmax_at(scores, first, end, firsts, ends, see_all, scale, states, weights, decays):
    return lanes.softmax_lanes(
        float_pointer(scores),
        first,
        end,
        int_pointer(firsts),
        int_pointer(ends),
        see_all,
        scale,
        float_pointer(states),
        float_pointer(weights),
        float_pointer(decays),
    )


def softmax_in_lanes(
    scores: torch.Tensor,
    bounds: torch.Tensor,
    scale: float,
    tops: torch.Tensor,
    sums: torch.Tensor,
    *,
    see_all: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Return bfloat16 weights [64, 16] of scores [64, 16], float32 decays [16], and whether any is not 1.

    Args:
        scores: Float32.
        bounds: int64 [2, 16], for each lane the first key that it sees and the one after the last.
        scale: Factor on the scores.
        tops: Float32 [16], brought up to date.
        sums: Likewise.
        see_all: Whether all lanes see all keys, whatever the bounds are.
    """
    given, words, decays = scores.clone(), torch.full((BLOCK // 2, LANES), torch.nan), torch.empty(LANES)
    states = torch.stack([tops, sums])
    decay = _softmax_at(
        given.data_ptr(), 0, BLOCK, bounds[0].data_ptr(), bounds[1].data_ptr(), see_all, np.float32(scale),
        states.data_ptr(), words.data_ptr(), decays.data_ptr(),
    )  # fmt: skip
    tops.copy_(states[0])
    sums.copy_(states[1])
    pairs = words.view(torch.bfloat16).view(BLOCK // 2, LANES, 2)
    return pairs.transpose(1, 2).reshape(BLOCK, LANES), decays, decay


@wrapper
def _scale_at(totals, factors, width, out):
    lanes.scale_lanes(float_pointer(totals), float_pointer(factors), width, float_pointer(out))


def scale_in_lanes(totals: torch.Tensor, factors: torch.Tensor, out: torch.Tensor) -> None:
    """Write totals [width, 16] times factors [16]."""
    _scale_at(totals.data_ptr(), factors.data_ptr(), len(totals), out.data_ptr())


@wrapper
def _copy_some_at(source, first, end, width, out):
    lanes.copy_some_lanes(float_pointer(source), first, end, width, float_pointer(out))


def copy_of_some_lanes(source: torch.Tensor, first: int, end: int, out: torch.Tensor) -> None:
    """Write some lanes of [width, 16]."""
    _copy_some_at(source.data_ptr(), first, end, len(source), out.data_ptr())


@wrapper
def _transpose_at(totals, width, out):
    lanes.transpose_lanes(float_pointer(totals), width, float_pointer(out))


def transposed_lanes(totals: torch.Tensor) -> torch.Tensor:
    """Return totals [width, 16] as rows [16, width]."""
    out = torch.full((LANES, len(totals)), torch.nan)
    _transpose_at(totals.data_ptr(), len(totals), out.data_ptr())
    return out


@wrapper
def _transpose_values_at(source, width, slots, first, end, out):
    lanes.transpose_values(
        bfloat16_pointer(source), width, int_pointer(slots), first, end, float_pointer(out)
    )


def transposed_values(values: torch.Tensor, slots: torch.Tensor, first: int, end: int) -> torch.Tensor:
    """Return the values [slots, width] of a block's keys as [width, 64]."""
    out = torch.full((values.shape[1], BLOCK), torch.nan, dtype=torch.bfloat16)
    _transpose_values_at(values.data_ptr(), values.shape[1], slots.data_ptr(), first, end, out.data_ptr())
    return out


@wrapper
def _copy_row_at(is_bfloat16, source, size, target):
    if is_bfloat16:
        rows.copy_row(bfloat16_pointer(source), size, bfloat16_pointer(target))
    else:
        rows.copy_row(float_pointer(source), size, float_pointer(target))


def copy_of_row(source: torch.Tensor, size: int, target: torch.Tensor) -> None:
    """Copy the first `size` numbers."""
    _copy_row_at(holds_bfloat16(source), source.data_ptr(), size, target.data_ptr())


@wrapper
def _add_scaled_at(totals, factor, source, other, size):
    rows.add_scaled_row(float_pointer(totals), factor, float_pointer(source), other, size)


def add_scaled(totals: torch.Tensor, factor: float, source: torch.Tensor, other: float) -> None:
    """Set totals to totals · factor + source · other."""
    size = len(source)
    _add_scaled_at(totals.data_ptr(), np.float32(factor), source.data_ptr(), np.float32(other), size)


@wrapper
def _is_finite_at(is_bfloat16, numbers, size):
    if is_bfloat16:
        return rows.is_finite_row(bfloat16_pointer(numbers), size)
    return rows.is_finite_row(float_pointer(numbers), size)


def are_finite(numbers: torch.Tensor, size: int) -> bool:
    """Return whether the first `size` numbers are finite."""
    return bool(_is_finite_at(holds_bfloat16(numbers), numbers.data_ptr(), size))
