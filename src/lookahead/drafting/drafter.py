"""One request's view of the draft memory, from its prompt to its end."""

from collections.abc import Callable, Sequence

import numpy as np

from lookahead.config import LookaheadConfig
from lookahead.drafting.budget import StepTimes
from lookahead.drafting.pace import Pace, StepReport
from lookahead.drafting.store import DEFAULT_NAMESPACE, DraftStore, Origin
from lookahead.drafting.tree import DraftTree, Int32Array


class RequestDrafter:
    """Streams one request's tokens into a draft store and proposes what may follow.

    Args:
        memory: the store.
        config: how deep drafts are, and how they are laid out.
        pace: how large they are, and whether logits are recycled.
        measure: returns the model's step times, once its prompt has been read; None where it has no positions
            left for a draft.
        namespace: the one the request belongs to.
        reads: further namespaces to draft from.

    Attributes:
        recycled_tokens: accepted tokens that were drafted from the model's recycled logits.
    """

    def __init__(
        self,
        memory: DraftStore,
        config: LookaheadConfig,
        pace: Pace,
        measure: Callable[[], StepTimes | None] = lambda: None,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        reads: Sequence[str] = (),
    ) -> None:
        self._memory = memory
        self._config = config
        self._pace = pace
        self._measure = measure
        self._most_nodes = pace.most_nodes
        self._request = object()
        self._namespace, self._reads = namespace, reads
        self._prompt = np.zeros(0, np.int32)
        self.recycled_tokens = 0

    def read(self, prompt: list[int]) -> None:
        """Remember the request's prompt until `close`."""
        self._prompt = np.array(prompt, np.int32)
        self._memory.open(self._request, namespace=self._namespace, reads=self._reads)
        self._memory.insert(self._request, self._prompt, Origin.PROMPT)

    def get_ready(self) -> None:
        """Measure the model's step times where they are wanted and unknown; the prompt has been read."""
        if self._pace.needs_measuring:
            times = self._measure()
            if times is None:
                self._most_nodes = 1
            else:
                self._pace.measured(times)

    def propose(self, most_levels: int) -> DraftTree:
        """Return a draft after the last token learned, at most `most_levels` deep."""
        draft = self._memory.propose(
            self._request,
            decoding_length=self._most_nodes,
            branch_length=min(self._config.branch_length, most_levels),
            mode=self._config.mode,
        )
        return self._pace.cut(draft)

    def learn(self, tokens: list[int]) -> None:
        """Remember emitted tokens."""
        self._memory.insert(self._request, tokens, Origin.OUTPUT)

    @property
    def recycles(self) -> bool:
        """Whether `recycle` is wanted after this step."""
        return self._memory.recycles and self._pace.recycles

    def recycle_prompt(self, successors: Int32Array) -> None:
        """Remember what the model holds most likely after each of the prompt's last tokens, int32 [m, k]."""
        tokens = self._prompt[-len(successors) :]
        self._memory.recycle(self._request, tokens, successors[-len(tokens) :])

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
        self._memory.recycle(self._request, draft.token_ids[order], successors[order])

    def adapt(self, nodes: int, tokens: int, seconds: dict[str, float]) -> None:
        """Take into account what a step verified, emitted and took."""
        before, self.recycled_tokens = self.recycled_tokens, self._memory.recycled_tokens(self._request)
        self._pace.adapt(
            StepReport(
                nodes=nodes,
                tokens=tokens,
                recycled_tokens=self.recycled_tokens - before,
                forward_s=seconds["model_s"],
                draft_s=seconds["draft_s"],
                recycle_s=seconds.get("recycle_s", 0.0),
            )
        )

    def close(self) -> None:
        """Forget the prompt, whether the request ended or was aborted."""
        self._memory.forget(self._request)


class NoDrafter:
    """Drafts nothing and remembers nothing: every step is a plain one."""

    def __init__(self) -> None:
        self._last_token = 0

    def read(self, prompt: list[int]) -> None:
        """Do nothing."""

    def propose(self, most_levels: int) -> DraftTree:  # noqa: ARG002
        """Return the last token alone."""
        return DraftTree.root_only(self._last_token)

    def get_ready(self) -> None:
        """Do nothing: nothing is drafted, however fast forwards are."""

    def learn(self, tokens: list[int]) -> None:
        """Remember the last token, where the next step begins."""
        self._last_token = tokens[-1]

    recycles = False
    recycled_tokens = 0

    def recycle_prompt(self, successors: Int32Array) -> None:
        """Do nothing: nobody would draft from it."""

    def recycle(self, draft: DraftTree, path: list[int], successors: Int32Array) -> None:
        """Do nothing: nobody would draft from it."""

    def adapt(self, nodes: int, tokens: int, seconds: dict[str, float]) -> None:
        """Do nothing: steps are plain, whatever they take."""

    def close(self) -> None:
        """Do nothing: there is nothing to forget."""
