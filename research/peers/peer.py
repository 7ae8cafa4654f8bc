"""Shared code of the other systems' drafters."""

import sys

import numpy as np

from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.tree import DraftTree


class Peer:
    """Another system's drafter: it recycles nothing, and its drafts have no probabilities."""

    calibrated = False

    def recycle(self, token_ids: Int32Array, successors: Int32Array) -> None:
        """Ignore the successors."""


def chain_tree(token_id: int, drafted: Int32Array) -> DraftTree:
    """Return the draft tree of one chain under `token_id`."""
    return DraftTree.chain(np.concatenate([np.array([token_id], np.int32), drafted]))


def tree_of(token_ids: list[int], parents: list[int], max_depth: int) -> DraftTree:
    """Return the draft tree of these nodes, node 0 first, a parent before its children.

    Args:
        token_ids: The token of each node.
        parents: The index of each node's parent; -1 for node 0.
        max_depth: Deeper nodes are left out.
    """
    depths = [0]
    for parent in parents[1:]:
        depths.append(depths[parent] + 1)
    kept = np.array(depths, np.int32) <= max_depth
    new_index = np.cumsum(kept, dtype=np.int32) - 1
    above = np.array(parents, np.int32)[kept]
    above[1:] = new_index[above[1:]]
    return DraftTree(
        np.array(token_ids, np.int32)[kept], above, np.array(depths, np.int32)[kept], np.ones(len(above))
    )


def measured_bytes(root: object) -> int:
    """Return the bytes of Python containers and everything in them, each object once."""
    seen: set[int] = set()
    total, waiting = 0, [root]
    while waiting:
        held = waiting.pop()
        if id(held) in seen:
            continue
        seen.add(id(held))
        total += sys.getsizeof(held)
        if isinstance(held, dict):
            waiting += [*held.keys(), *held.values()]
        elif isinstance(held, list | tuple | set):
            waiting += held
        else:
            waiting += [getattr(held, name) for name in getattr(held, "__slots__", ())]
    return total
