"""What must hold in a TokenTrie's node pool between any two calls."""

from lookahead.drafting.trie.nodes import (
    CLOCK,
    FREE_COUNT,
    FREE_HEAD,
    NONE,
    OWN_CONTEXT,
    OWN_ROOT,
    SHARED_CONTEXT,
    USED,
    find_child,
)


def check_pool(trie, *, counts_are_exact):
    """Assert every invariant; `counts_are_exact` says that nothing was pruned, refused or set back."""
    pool = trie._pool
    free = free_nodes(pool)
    own_roots = {int(row[OWN_ROOT]) for row in trie._requests.values()} - {trie._empty_root}
    tries = {root: runs_of(pool, root) for root in (trie._shared_root, trie._empty_root, *own_roots)}
    reached = [node for runs in tries.values() for node in runs.values()]
    assert len(reached) == len(set(reached)), "a node has two parents"
    assert set(reached) == set(range(int(pool.meta[USED]))) - free, "a node is neither free nor reachable"
    assert len(tries[trie._empty_root]) == 1, "the empty trie has nodes"
    hashed = [int(node) for node in pool.table if node != NONE]
    assert sorted(hashed) == sorted(set(reached) - set(tries)), "hashed nodes are not the nodes with parents"
    for runs in tries.values():
        check_trie(trie, runs, counts_are_exact=counts_are_exact)
    for row in trie._requests.values():
        assert row[SHARED_CONTEXT] in tries[trie._shared_root].values()
        assert row[OWN_CONTEXT] in tries[int(row[OWN_ROOT])].values()


def free_nodes(pool):
    free, node = [], pool.meta[FREE_HEAD]
    while node != NONE:
        free.append(int(node))
        assert pool.token[node] == NONE, "a freed node still holds its token"
        assert pool.parent[node] == NONE
        node = pool.next_sibling[node]
    assert len(free) == len(set(free)) == pool.meta[FREE_COUNT]
    return set(free)


def runs_of(pool, root):
    """{run of tokens: node}, walked along the links between siblings, which must be consistent."""
    assert pool.parent[root] == NONE
    assert pool.depth[root] == 0
    runs, waiting = {(): root}, [()]
    while waiting:
        run = waiting.pop()
        before, node = NONE, int(pool.first_child[runs[run]])
        while node != NONE:
            longer = (*run, int(pool.token[node]))
            assert longer not in runs, "two siblings carry one token"
            assert pool.parent[node] == runs[run]
            assert pool.previous_sibling[node] == before
            assert pool.depth[node] == len(longer)
            assert before == NONE or pool.stamp[before] >= pool.stamp[node], "not most recent first"
            runs[longer] = node
            waiting.append(longer)
            before, node = node, int(pool.next_sibling[node])
    return runs


def check_trie(trie, runs, *, counts_are_exact):
    pool = trie._pool
    for run, node in runs.items():
        if not run:
            continue
        assert find_child(pool, pool.parent[node], run[-1]) == node
        suffix = next(run[i:] for i in range(1, len(run) + 1) if run[i:] in runs)
        assert pool.suffix[node] == runs[suffix], "the suffix is not the longest that is known"
        assert pool.seen[node] >= 1
        assert 0 <= pool.stamp[node] <= pool.meta[CLOCK]
        if suffix:
            assert pool.seen[node] <= pool.seen[runs[suffix]]
            assert pool.stamp[node] <= pool.stamp[runs[suffix]]
        assert len(run) <= trie._max_depth
        assert len(run) == 1 or run[0] not in trie._stop_words, "a stop word alone has a child"
        if counts_are_exact and len(run) > 1:
            assert pool.seen[node] <= pool.seen[runs[run[:-1]]]
