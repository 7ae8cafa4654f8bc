"""The requests' view of the draft memory, from prompt to end."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from lookahead.config import DraftMode
from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.budget.controller import BudgetController, StepReport
from lookahead.drafting.growth.candidates import RECYCLED
from lookahead.drafting.noise import NO_NOISE, NOTHING_KNOWN, Noise
from lookahead.drafting.store import DEFAULT_NAMESPACE, DraftStore, Origin
from lookahead.drafting.tree import DraftTree


class RequestDrafter:
    """Writes one request's tokens to a draft store and proposes drafts.

    Args:
        store: The draft store.
        branch_length: Maximum depth of a draft.
        mode: Shape of drafts.
        namespace: The request's namespace.
        reads: Further namespaces to draft from.
        predictions: Texts that the answer may resemble: drafted from as the prompt is.
        remember: Whether the request leaves anything to later ones.

    Attributes:
        recycled_tokens: Accepted tokens that were drafted from the model's recycled logits.
        sources: The source of each token that was learned last, see `growth.candidates`.
    """

    def __init__(
        self,
        store: DraftStore,
        *,
        branch_length: int,
        mode: DraftMode = DraftMode.HIERARCHICAL,
        namespace: str = DEFAULT_NAMESPACE,
        reads: Sequence[str] = (),
        predictions: Sequence[Sequence[int]] = (),
        remember: bool = True,
    ) -> None:
        self._store = store
        self._branch_length = branch_length
        self._mode = mode
        self._request = object()
        self._namespace, self._reads = namespace, reads
        self._prompt = np.zeros(0, np.int32)
        self._predictions = predictions
        self._remember = remember
        self.recycled_tokens = 0
        self.sources = np.zeros(0, np.int32)
        self.length = 0
        """Tokens of the request so far, its prompt included."""

    def read(self, prompt: Sequence[int]) -> None:
        """Remember the request's prompt until `close`."""
        self._prompt = np.array(prompt, np.int32)
        self.length = len(prompt)
        self._store.open(self._request, namespace=self._namespace, reads=self._reads, remember=self._remember)
        for predicted in self._predictions:
            self._store.insert(self._request, np.array(predicted, np.int32), Origin.PROMPT)
        self._store.insert(self._request, self._prompt, Origin.PROMPT)

    def propose(self, max_depth: int, max_nodes: int, noise: Noise = NO_NOISE) -> DraftTree:
        """Return a draft after the last learned token, within this depth and number of nodes."""
        return self._store.propose(
            self._request,
            decoding_length=max_nodes,
            branch_length=min(self._branch_length, max_depth),
            mode=self._mode,
            noise=noise,
        )

    def learn(self, tokens: list[int]) -> None:
        """Remember emitted tokens."""
        self._store.insert(self._request, tokens, Origin.OUTPUT)
        self.length += len(tokens)
        self.sources = self._store.sources(self._request)
        self.recycled_tokens += int(np.count_nonzero(self.sources == RECYCLED))

    def recycle_prompt(self, successors: Int32Array) -> None:
        """Remember the model's top-k after each of the prompt's last tokens, int32 [m, k]."""
        tokens = self._prompt[-len(successors) :]
        self._store.recycle(self._request, tokens, successors[-len(tokens) :], accepted=len(tokens))

    def recycle(self, draft: DraftTree, path: list[int], successors: Int32Array) -> None:
        """Remember the model's top-k after the nodes it verified.

        Args:
            draft: n nodes.
            path: The accepted nodes; written last, since their context is the text itself.
            successors: int32 [n, k], each node's most probable next tokens, most probable first.
        """
        is_rejected = np.ones(len(draft), np.bool_)
        is_rejected[path] = False
        order = np.concatenate([np.flatnonzero(is_rejected), path])
        self._store.recycle(self._request, draft.token_ids[order], successors[order], accepted=len(path))

    def close(self) -> None:
        """Forget the prompt, whether the request ended or was aborted."""
        self._store.forget(self._request)


class BatchDrafter:
    """Drafts for rows that are added and removed, each a request of its own, within one budget.

    Args:
        controller: Decides how much is drafted, and whether logits are recycled.
        recycles: Whether the store drafts from recycled logits.
        lockstep: Whether all rows stay in the forward pass and advance by the smallest number accepted.
        is_ragged: Whether each row has its own number of nodes in a forward pass; else that of the largest.
    """

    def __init__(
        self,
        controller: BudgetController,
        *,
        recycles: bool,
        lockstep: bool = False,
        is_ragged: bool = False,
    ) -> None:
        self._requests: dict[int, RequestDrafter] = {}
        self._controller = controller
        self._store_recycles = recycles
        self._lockstep = lockstep
        self._is_ragged = is_ragged
        self._recycled_by_removed = self._recycled_before = 0

    def add(self, row: int, request: RequestDrafter, prompt: Sequence[int]) -> None:
        """Add a row and remember its prompt until `remove` or `close`."""
        self._requests[row] = request
        request.read(prompt)

    def remove(self, row: int) -> None:
        """Forget a row's prompt, whether the request ended or was aborted."""
        self._requests[row].close()  # first: after a Ctrl-C in between, it is closed again
        self._recycled_by_removed += self._requests.pop(row).recycled_tokens

    def propose(
        self,
        max_depths: Mapping[int, int],
        *,
        beside: int = 0,
        max_draft_tokens: int | None = None,
        noise: Mapping[int, Noise] = NOTHING_KNOWN,
    ) -> dict[int, DraftTree]:
        """Return a draft for each row after its last learned token, not deeper than its maximum.

        Args:
            max_depths: By row.
            beside: Tokens of prompts that are read in the same forward pass.
            max_draft_tokens: Upper bound on the tokens drafted for all rows together, if there is one.
            noise: By row, what is known of the noise of its next draws.
        """
        rows = self._rows_in_forward(max_depths)
        max_nodes = self._controller.max_nodes(rows)
        drafts = [
            self._requests[row].propose(depth, max_nodes, noise.get(row, NO_NOISE))
            for row, depth in max_depths.items()
        ]
        context = self._context(max_depths)
        cut = self._controller.cut(
            drafts,
            rows=rows,
            context=context,
            lockstep=self._lockstep,
            is_ragged=self._is_ragged,
            beside=beside,
            max_draft_tokens=max_draft_tokens,
        )
        return dict(zip(max_depths, cut, strict=True))

    def learn(self, row: int, tokens: list[int]) -> None:
        """Remember emitted tokens of a row."""
        self._requests[row].learn(tokens)

    @property
    def recycles(self) -> bool:
        """Whether `recycle` is wanted after this step."""
        return self._store_recycles and self._controller.recycles

    def sources(self, row: int) -> list[int]:
        """Return the source of each token of a row that was learned last, see `growth.candidates`."""
        found: list[int] = self._requests[row].sources.tolist()
        return found

    def recycle_prompt(self, row: int, successors: Int32Array) -> None:
        """Remember the model's top-k after each of a prompt's last tokens, int32 [m, k]."""
        self._requests[row].recycle_prompt(successors)

    def recycle(self, row: int, draft: DraftTree, path: list[int], successors: Int32Array) -> None:
        """Remember the model's top-k after the nodes of a row's draft, int32 [n, k]."""
        self._requests[row].recycle(draft, path, successors)

    @property
    def recycled_tokens(self) -> int:
        """Accepted tokens that were drafted from the model's recycled logits."""
        of_rows = sum(request.recycled_tokens for request in self._requests.values())
        return self._recycled_by_removed + of_rows

    def adapt(self, sizes: Mapping[int, int], tokens: int, seconds: Mapping[str, float]) -> None:
        """Adapt to a step: nodes verified by row, tokens emitted by all rows, and seconds by name."""
        before, self._recycled_before = self._recycled_before, self.recycled_tokens
        self._controller.adapt(
            StepReport(
                rows=self._rows_in_forward(sizes),
                context=self._context(sizes),
                nodes=sum(sizes.values()) / len(sizes) if self._is_ragged else max(sizes.values()),
                is_drafted=self._is_ragged and len(sizes) > 1 and max(sizes.values()) > 1,
                tokens=tokens,
                recycled_tokens=self._recycled_before - before,
                forward_s=seconds["model_s"] + seconds["cache_s"],
                draft_s=seconds["draft_s"],
                recycle_s=seconds.get("recycle_s", 0.0),
            )
        )

    def close(self) -> None:
        """Forget the prompts of all rows, whether the requests ended or were aborted."""
        for row in list(self._requests):
            self.remove(row)

    def _rows_in_forward(self, rows: Collection[int]) -> int:
        return len(self._requests) if self._lockstep else len(rows)

    def _context(self, rows: Iterable[int]) -> int:
        return max((self._requests[row].length for row in rows), default=0)


class NoDrafter:
    """Drafts nothing and remembers nothing: every step is plain."""

    recycles = False
    recycled_tokens = 0

    def __init__(self) -> None:
        self._last_tokens: dict[int, int] = {}

    def propose(self, max_depths: Mapping[int, int], **_others: object) -> dict[int, DraftTree]:
        """Return only each row's last token, which is within all limits."""
        return {row: DraftTree.root_only(self._last_tokens[row]) for row in max_depths}

    def learn(self, row: int, tokens: list[int]) -> None:
        """Remember the row's last token, where the next step begins."""
        self._last_tokens[row] = tokens[-1]

    def recycle_prompt(self, row: int, successors: Int32Array) -> None:
        """Do nothing: nothing is drafted from it."""

    def recycle(self, row: int, draft: DraftTree, path: list[int], successors: Int32Array) -> None:
        """Do nothing: nothing is drafted from it."""

    def adapt(self, sizes: Mapping[int, int], tokens: int, seconds: Mapping[str, float]) -> None:
        """Do nothing: every step is plain."""

    def remove(self, row: int) -> None:
        """Forget a row."""
        self._last_tokens.pop(row, None)

    def close(self) -> None:
        """Do nothing: there is nothing to forget."""
