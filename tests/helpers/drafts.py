"""Memories to draft from by hand, and drafts as lists of branches."""

from lookahead.config import DraftMode
from lookahead.drafting.growth.frequent import new_counts
from lookahead.drafting.log.calibration import initial_weights
from lookahead.drafting.log.matches import initial_hit_rates
from lookahead.drafting.log.ring import SMALLEST_RING, ring_bytes
from lookahead.drafting.log.sizing import names_bytes
from lookahead.drafting.log.successors import SMALLEST_TABLE, table_bytes
from lookahead.drafting.log.token_log import TokenLog
from lookahead.drafting.store import Origin
from lookahead.drafting.trie.token_trie import TokenTrie

LEARNED = initial_hit_rates().nbytes + initial_weights().nbytes + new_counts().nbytes
MIN_MEMORY = LEARNED + names_bytes(0) + 4 * max(2 * ring_bytes(SMALLEST_RING), table_bytes(SMALLEST_TABLE))
"""Bytes for 256 shared tokens, a few names, the log of one live request, and a table of 64 buckets."""


def memory_of(*answers, store=TokenTrie, **settings):
    """A memory that has seen these answers, each in a request that has ended."""
    memory = store(**settings)
    for answer in answers:
        memory.insert("earlier", answer, Origin.OUTPUT)
        memory.forget("earlier")
    return memory


def log_of(*answers, **settings):
    return memory_of(*answers, store=TokenLog, **settings)


def propose(memory, request="now", *, length=16, depth=12, mode=DraftMode.HIERARCHICAL):
    return memory.propose(request, decoding_length=length, branch_length=depth, mode=mode)


def branches(draft):
    """The drafted branches, from below node 0 down to each leaf, the most probable first."""
    leaves = [node for node in range(1, len(draft)) if node not in draft.parents]
    return [[int(draft.token_ids[node]) for node in draft.path_to(leaf)[1:]] for leaf in leaves]


def first_tokens(draft):
    """The first token of each drafted branch, the most probable branch first."""
    return [branch[0] for branch in branches(draft)]
