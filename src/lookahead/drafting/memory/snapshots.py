"""A TokenLog's snapshot: compact it for a file, and check one that comes from a file.

Nothing in a file is trusted: a token out of range would read beyond the model's embeddings, and an answer
without an end would be drafted in the next one's namespace.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lookahead.drafting.log.calibration import initial_weights
from lookahead.drafting.log.matches import initial_hit_rates
from lookahead.drafting.log.ring import GAP
from lookahead.drafting.log.successors import NO_TOKEN, SUCCESSORS
from lookahead.drafting.store import VOCABULARY_NAMESPACE

Snapshot = dict[str, npt.NDArray[np.generic]]

ARRAYS = {
    "tokens": (np.int32, 1),
    "owners": (np.int32, 1),
    "keys": (np.int64, 1),
    "successors": (np.int32, 2),
    "hit_rates": (np.float64, 2),
    "weights": (np.float64, 2),
}
"""A snapshot's arrays except the namespaces' two, with their dtype and number of axes."""

MAX_VOCABULARY = 2**24
"""Token ids from here on are in no vocabulary: the largest in use have about 2¹⁸ tokens."""

_TOKEN_BITS = 31
_LARGEST_TOKEN = 2**_TOKEN_BITS - 1
_LARGEST_WEIGHT = 1e6


def compacted(snapshot: Snapshot) -> Snapshot:
    """Return a snapshot without forgotten text and empty namespaces; the others are numbered from 1."""
    tokens, owners, keys = snapshot["tokens"], snapshot["owners"], snapshot["keys"].astype(np.int64)
    is_gap = tokens == GAP
    is_text = ~is_gap
    is_text[1:] |= ~is_gap[:-1]  # the first gap after each answer, too
    tokens, owners = tokens[is_text], owners[is_text]
    used = np.unique(np.concatenate([owners, keys >> _TOKEN_BITS]))
    names = dict(zip(snapshot["owners_named"].tolist(), snapshot["names"].tolist(), strict=True))
    numbered = np.searchsorted(used, keys >> _TOKEN_BITS) + 1
    return {
        **snapshot,
        "names": np.array([names[number] for number in used.tolist()], np.object_),
        "owners_named": np.arange(1, len(used) + 1, dtype=np.int32),
        "tokens": tokens,
        "owners": (np.searchsorted(used, owners) + 1).astype(np.int32),
        "keys": (numbered.astype(np.int64) << _TOKEN_BITS) | (keys & _LARGEST_TOKEN),
    }


def tokens_by_namespace(snapshot: Snapshot) -> dict[str, int]:
    """Return how many tokens of each namespace a compacted snapshot holds, gaps not counted."""
    held = np.bincount(
        snapshot["owners"][snapshot["tokens"] != GAP].astype(np.int64), minlength=len(snapshot["names"]) + 1
    )
    counted = zip(snapshot["names"].tolist(), held[1:].tolist(), strict=True)
    return {name: count for name, count in counted if name != VOCABULARY_NAMESPACE}


def largest_token(arrays: Mapping[str, npt.NDArray[Any]]) -> int:
    """Return the largest token id in a store's snapshot; -1 where there is none."""
    largest = -1
    for name in ("tokens", "token", "successors"):
        if name in arrays:
            largest = max(largest, int(arrays[name].max(initial=-1)))
    if "keys" in arrays:
        largest = max(largest, int((arrays["keys"] & _LARGEST_TOKEN).max(initial=-1)))
    return largest


def fault_in(snapshot: Snapshot, vocabulary_size: int | None) -> str | None:
    """Return what is wrong with a compacted snapshot, in words; None where a log can absorb it."""
    arrays: dict[str, npt.NDArray[Any]] = {**snapshot}
    max_tokens = vocabulary_size or MAX_VOCABULARY
    return (
        _fault_in_forms(arrays)
        or _fault_in_text(arrays, max_tokens)
        or _fault_in_successors(arrays, max_tokens)
        or _fault_in_calibration(arrays["hit_rates"], arrays["weights"])
    )


def has_our_calibration(snapshot: Snapshot) -> bool:
    """Return whether a snapshot's calibration state has this release's shapes."""
    ours = (initial_hit_rates().shape, initial_weights().shape)
    return (snapshot["hit_rates"].shape, snapshot["weights"].shape) == ours


def _fault_in_forms(arrays: Mapping[str, npt.NDArray[Any]]) -> str | None:
    missing = [name for name in ARRAYS if name not in arrays]
    if missing:
        return f"it lacks {', '.join(missing)}"
    for name, (dtype, axes) in ARRAYS.items():
        array = arrays[name]
        if array.dtype != dtype or array.ndim != axes:
            return f"{name} is {array.dtype} {list(array.shape)}, not {np.dtype(dtype)} of {axes} axes"
    if len(arrays["owners"]) != len(arrays["tokens"]):
        return f"there are {len(arrays['tokens'])} tokens and {len(arrays['owners'])} owners"
    if arrays["successors"].shape != (len(arrays["keys"]), SUCCESSORS):
        return f"successors is {list(arrays['successors'].shape)}, not {[len(arrays['keys']), SUCCESSORS]}"
    return None


def _fault_in_text(arrays: Mapping[str, npt.NDArray[Any]], max_tokens: int) -> str | None:
    tokens, owners, namespaces = arrays["tokens"], arrays["owners"], len(arrays["names"])
    if len(tokens) == 0:
        return None
    if tokens.min() < GAP or tokens.max() >= max_tokens:
        return f"its tokens are from {tokens.min()} to {tokens.max()}, the vocabulary has {max_tokens}"
    if owners.min() < 1 or owners.max() > namespaces:
        return f"its owners are from {owners.min()} to {owners.max()}, there are {namespaces} namespaces"
    if tokens[-1] != GAP or (tokens[:-1][owners[:-1] != owners[1:]] != GAP).any():
        return "an answer has no end"
    names = arrays["names"].tolist()
    if VOCABULARY_NAMESPACE in names and (owners == 1 + names.index(VOCABULARY_NAMESPACE)).any():
        return "a text belongs to no namespace"
    return None


def _fault_in_successors(arrays: Mapping[str, npt.NDArray[Any]], max_tokens: int) -> str | None:
    keys, successors, namespaces = arrays["keys"], arrays["successors"], len(arrays["names"])
    if len(keys) == 0:
        return None
    owners, tokens = keys >> _TOKEN_BITS, keys & _LARGEST_TOKEN
    if owners.min() < 1 or owners.max() > namespaces:
        return f"its successors' owners are from {owners.min()} to {owners.max()}, not 1 to {namespaces}"
    if tokens.max() >= max_tokens or successors.min() < NO_TOKEN or successors.max() >= max_tokens:
        return f"its successors are not all in the vocabulary of {max_tokens}"
    ordered = np.sort(successors, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != NO_TOKEN)).any():
        return "a token has the same successor twice"
    if ((successors[:, :-1] == NO_TOKEN) & (successors[:, 1:] != NO_TOKEN)).any():
        return "a token's successors have a gap"
    return None


def _fault_in_calibration(hit_rates: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> str | None:
    if hit_rates.shape[1] != 2 or not np.isfinite(hit_rates).all():
        return "its hit rates are not a list of finite trials and hits"
    trials, hits = hit_rates.T
    if not ((trials > 0) & (hits >= 0) & (hits <= trials)).all():
        return "its hit rates have more hits than trials"
    if len(weights) != 2 or not np.isfinite(weights).all() or not (weights[1] > 0).all():
        return "its weights are not finite"
    if np.abs(weights[0]).max(initial=0) > _LARGEST_WEIGHT:
        return f"its weights are beyond {_LARGEST_WEIGHT:g}"
    return None
