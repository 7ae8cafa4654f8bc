"""The requests' view of the draft memory, from their prompts to their ends."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lookahead.config import DraftMode
from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.budget.controller import BudgetController, StepReport
from lookahead.drafting.budget.policy import StepTimes
from lookahead.drafting.store import DEFAULT_NAMESPACE, DraftStore, Origin
from lookahead.drafting.tree import DraftTree


class RequestDrafter:
    """Streams one request's tokens into a draft store and proposes what may follow.

    Args:
        store: the memory's.
        branch_length: the deepest a draft may go.
        mode: how drafts are laid out.
        namespace: the one the request belongs to.
        reads: further namespaces to draft from.

    Attributes:
        recycled_tokens: accepted tokens that were drafted from the model's recycled logits.
    """

    def __init__(
        self,
        store: DraftStore,
        *,
        branch_length: int,
        mode: DraftMode = DraftMode.HIERARCHICAL,
        namespace: str = DEFAULT_NAMESPACE,
        reads: Sequence[str] = (),
    ) -> None:
        self._store = store
        self._branch_length = branch_length
        self._mode = mode
        self._request = object()
        self._namespace, self._reads = namespace, reads
        self._prompt = np.zeros(0, np.int32)
        self.recycled_tokens = 0

    def read(self, prompt: Sequence[int]) -> None:
        """Remember the request's prompt until `close`."""
        self._prompt = np.array(prompt, np.int32)
        self._store.open(self._request, namespace=self._namespace, reads=self._reads)
        self._store.insert(self._request, self._prompt, Origin.PROMPT)

    def propose(self, max_depth: int, max_nodes: int) -> DraftTree:
        """Return a draft after the last token learned, of so many levels and nodes at most."""
        return self._store.propose(
            self._request,
            decoding_length=max_nodes,
            branch_length=min(self._branch_length, max_depth),
            mode=self._mode,
        )

    def learn(self, tokens: list[int]) -> None:
        """Remember emitted tokens."""
        self._store.insert(self._request, tokens, Origin.OUTPUT)
        self.recycled_tokens = self._store.recycled_tokens(self._request)

    def recycle_prompt(self, successors: Int32Array) -> None:
        """Remember what the model holds most likely after each of the prompt's last tokens, int32 [m, k]."""
        tokens = self._prompt[-len(successors) :]
        self._store.recycle(self._request, tokens, successors[-len(tokens) :])

    def recycle(self, draft: DraftTree, path: list[int], successors: Int32Array) -> None:
        """Remember what the model holds most likely after the nodes it verified.

        Args:
            draft: n nodes.
            path: those accepted, whose context was the true one: they count as read last.
            successors: int32 [n, k], each node's likeliest next tokens, likeliest first.
        """
        is_rejected = np.ones(len(draft), np.bool_)
        is_rejected[path] = False
        order = np.concatenate([np.flatnonzero(is_rejected), path])
        self._store.recycle(self._request, draft.token_ids[order], successors[order])

    def close(self) -> None:
        """Forget the prompt, whether the request ended or was aborted."""
        self._store.forget(self._request)


class BatchDrafter:
    """Drafts for the rows of a batch, each a request of its own, at one pace.

    Args:
        requests: the rows', in order.
        pace: how much is drafted, and whether logits are recycled.
        recycles: whether the store drafts from recycled logits.
        lockstep: whether all rows advance by as much as the least accepted.
        measure: returns the model's step times, once the prompts have been read; None where it has no
            positions left for a draft.
    """

    def __init__(
        self,
        requests: Sequence[RequestDrafter],
        pace: BudgetController,
        *,
        recycles: bool,
        lockstep: bool = False,
        measure: Callable[[], StepTimes | None] = lambda: None,
    ) -> None:
        self._requests = requests
        self._pace = pace
        self._store_recycles = recycles
        self._lockstep = lockstep
        self._measure = measure
        self._recycled_before = 0

    def read(self, prompts: Sequence[Sequence[int]]) -> None:
        """Remember each row's prompt until `close`."""
        for request, prompt in zip(self._requests, prompts, strict=True):
            request.read(prompt)

    def calibrate(self) -> None:
        """Measure the model's step times where they are wanted and unknown; the prompts have been read."""
        if self._pace.needs_measuring:
            times = self._measure()
            if times is not None:
                self._pace.measured(times)

    def propose(self, max_depth: Mapping[int, int]) -> dict[int, DraftTree]:
        """Return a draft of each row after its last token learned, at most `max_depth` deep."""
        self.calibrate()  # where there were no positions left for a draft there may be now, behind a boundary
        max_nodes = 1 if self._pace.needs_measuring else self._pace.max_nodes
        drafts = [self._requests[row].propose(levels, max_nodes) for row, levels in max_depth.items()]
        return dict(zip(max_depth, self._pace.cut(drafts, lockstep=self._lockstep), strict=True))

    def learn(self, row: int, tokens: list[int]) -> None:
        """Remember emitted tokens of a row."""
        self._requests[row].learn(tokens)

    @property
    def recycles(self) -> bool:
        """Whether `recycle` is wanted after this step."""
        return self._store_recycles and self._pace.recycles

    def recycle_prompt(self, row: int, successors: Int32Array) -> None:
        """Remember what the model holds most likely after each of a prompt's last tokens, int32 [m, k]."""
        self._requests[row].recycle_prompt(successors)

    def recycle(self, row: int, draft: DraftTree, path: list[int], successors: Int32Array) -> None:
        """Remember what the model holds most likely after the nodes of a row's draft, int32 [n, k]."""
        self._requests[row].recycle(draft, path, successors)

    @property
    def recycled_tokens(self) -> int:
        """Accepted tokens that were drafted from the model's recycled logits."""
        return sum(request.recycled_tokens for request in self._requests)

    def adapt(self, nodes: int, tokens: int, seconds: dict[str, float]) -> None:
        """Take into account what a step verified in each row, emitted in all, and took."""
        before, self._recycled_before = self._recycled_before, self.recycled_tokens
        self._pace.adapt(
            StepReport(
                nodes=nodes,
                tokens=tokens,
                recycled_tokens=self._recycled_before - before,
                forward_s=seconds["model_s"] + seconds["cache_s"],
                draft_s=seconds["draft_s"],
                recycle_s=seconds.get("recycle_s", 0.0),
            )
        )

    def close(self) -> None:
        """Forget the prompts, whether the requests ended or were aborted."""
        for request in self._requests:
            request.close()


class NoDrafter:
    """Drafts nothing and remembers nothing: every step is a plain one."""

    def __init__(self) -> None:
        self._last_tokens: dict[int, int] = {}

    def read(self, prompts: Sequence[Sequence[int]]) -> None:
        """Do nothing."""

    def propose(self, max_depth: Mapping[int, int]) -> dict[int, DraftTree]:
        """Return each row's last token alone."""
        return {row: DraftTree.root_only(self._last_tokens[row]) for row in max_depth}

    def calibrate(self) -> None:
        """Do nothing: nothing is drafted, however fast forwards are."""

    def learn(self, row: int, tokens: list[int]) -> None:
        """Remember the row's last token, where the next step begins."""
        self._last_tokens[row] = tokens[-1]

    recycles = False
    recycled_tokens = 0

    def recycle_prompt(self, row: int, successors: Int32Array) -> None:
        """Do nothing: nobody would draft from it."""

    def recycle(self, row: int, draft: DraftTree, path: list[int], successors: Int32Array) -> None:
        """Do nothing: nobody would draft from it."""

    def adapt(self, nodes: int, tokens: int, seconds: dict[str, float]) -> None:
        """Do nothing: steps are plain, whatever they take."""

    def close(self) -> None:
        """Do nothing: there is nothing to forget."""
