"""The worker: SGLang's NGRAM worker with our corpus in place of its own."""

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lookahead.drafting.arrays import Int64Array
from lookahead.drafting.store import TokenIds
from lookahead.integrations.options import IntegrationOptions
from lookahead.integrations.sglang.corpus import LookaheadCorpus
from lookahead.integrations.sglang.follower import FollowerCorpus
from lookahead.integrations.sglang.namespaces import RequestOptions
from lookahead.integrations.sglang.settings import options_in

Corpus = LookaheadCorpus | FollowerCorpus


def worker_class() -> type:
    """Return the worker's class; SGLang must be importable."""
    from sglang.srt.speculative.ngram_worker import NGRAMWorker  # noqa: PLC0415  # only in its own processes

    class LookaheadWorker(NGRAMWorker):  # type: ignore[misc]  # SGLang has no types here
        """Drafts from a `DraftMemory` and verifies as NGRAM does."""

        max_trie_depth: int

        def __init__(self, server_args: Any, gpu_id: int, nccl_port: int, target_worker: Any) -> None:
            options = options_in(os.environ)
            self._corpus = _made_corpus(options, target_worker.model_runner.model_config.vocab_size)
            self._default_namespace = options.default_namespace
            super().__init__(server_args, gpu_id, nccl_port, target_worker)
            # It hands over so many of the last tokens. All that a step can add must be among them.
            self.max_trie_depth = max(self.max_trie_depth, 2 * self.draft_token_num)

        @property
        def ngram_corpus(self) -> Corpus:
            """The corpus."""
            return self._corpus

        @ngram_corpus.setter
        def ngram_corpus(self, made: object) -> None:
            """Drop SGLang's own, which its constructor makes."""

        def forward_batch_generation(self, batch: Any, *arguments: Any, **named: Any) -> Any:
            """Do as NGRAM does; open requests with their whole prompts first."""
            if batch.forward_mode.is_decode():
                open_requests(self._corpus, batch.reqs, self._default_namespace)
            return super().forward_batch_generation(batch, *arguments, **named)

        def note_request_finished(self, *, rid: str, natural_stop: bool) -> None:
            """Remember the answer of a request that is over."""
            super().note_request_finished(rid=rid, natural_stop=natural_stop)
            self._corpus.erase_match_state([rid])

    return LookaheadWorker


def open_requests(corpus: Corpus, requests: Iterable[Any], default_namespace: str) -> None:
    """Open the requests that the corpus does not know.

    Args:
        corpus: The corpus.
        requests: `Req`s of a decode batch.
        default_namespace: The namespace of those that have none.
    """
    for request in requests:
        if request.rid not in corpus:
            options = RequestOptions.of(request, default_namespace)
            corpus.open(
                request.rid,
                request.origin_input_ids_unpadded,
                answered=request.output_ids,
                namespace=options.namespace,
                reads=options.reads,
                remember=options.remember,
                # One that is over may take part in one more step; it has been remembered.
                final_answer=_nothing if request.finished() else partial(final_answer, request),
            )


def final_answer(request: Any) -> TokenIds | None:
    """Return a request's answer up to its end; None if it is not over: it was preempted and comes back."""
    return list(request.output_ids_through_stop) if request.finished() else None


def file_of_replica(options: IntegrationOptions, data_parallel_rank: int | None) -> IntegrationOptions:
    """Give each data-parallel replica after the first a memory file of its own: answers.dp1.lookahead."""
    if not data_parallel_rank or options.memory_file is None:
        return options
    path = Path(options.memory_file)
    return replace(options, memory_file=str(path.with_stem(f"{path.stem}.dp{data_parallel_rank}")))


def _nothing() -> None:
    return None


def _made_corpus(options: IntegrationOptions, vocabulary_size: int) -> Corpus:
    """Return the corpus of this process: the first tensor-parallel rank drafts, the others receive."""
    from sglang.srt.runtime_context import get_parallel, get_spec  # noqa: PLC0415  # only in its own processes

    from lookahead.integrations.shared_memory import open_memory  # noqa: PLC0415  # compiles the kernels

    group, spec = get_parallel().tp_group, get_spec()
    nodes = spec.speculative_num_draft_tokens
    share = _broadcast_from_first(group) if group.world_size > 1 else None
    if share is not None and group.rank_in_group > 0:
        return FollowerCorpus(nodes, share)
    held = open_memory(file_of_replica(options, get_parallel().dp_rank), vocabulary_size=vocabulary_size)
    return LookaheadCorpus(
        held.memory,
        nodes,
        is_chain=spec.speculative_ngram_max_bfs_breadth == 1,
        default_namespace=options.default_namespace,
        remember=options.remember,
        share=share,
    )


def _broadcast_from_first(group: Any) -> Callable[[Int64Array], None]:
    """Return what sends an array from a group's first rank to the others, through host memory."""
    import torch  # noqa: PLC0415  # the folder needs it only here, and SGLang has it

    def broadcast(drafts: Int64Array) -> None:
        torch.distributed.broadcast(torch.from_numpy(drafts), src=group.ranks[0], group=group.cpu_group)

    return broadcast
