"""vLLM's model runner and scheduler as far as a proposer sees them; the model is a function of the text.

The names are vLLM's: `input_batch`, `requests`, `scheduler_output`. Rows are condensed and swapped, prompts
are read in chunks, requests are preempted and aborted, and accepted tokens may lie behind an answer's end.
"""

import sys
from dataclasses import dataclass, field
from threading import Thread
from types import ModuleType, SimpleNamespace

import numpy as np

from lookahead.integrations.vllm.proposer import Proposer

VOCABULARY = 24
END = 0
MAX_MODEL_LEN = 96
DRAFT_TOKENS = 8


def vllm_config(**options):
    """A configuration of one worker; `options` are those of Lookahead."""
    model = SimpleNamespace(
        max_model_len=MAX_MODEL_LEN,
        get_vocab_size=lambda: VOCABULARY,
        try_get_generation_config=dict,
        hf_config=SimpleNamespace(eos_token_id=END),
    )
    return SimpleNamespace(
        additional_config={"lookahead": {"max_bytes": 2**22, **options}},
        speculative_config=SimpleNamespace(num_speculative_tokens=DRAFT_TOKENS),
        model_config=model,
        parallel_config=SimpleNamespace(data_parallel_size=1, data_parallel_rank=0),
        scheduler_config=SimpleNamespace(scheduler_cls=None),
    )


def stub_vllm(monkeypatch, *, tp_rank=0):
    """Put the little of vLLM that the proposer imports in its place."""
    group = SimpleNamespace(rank_in_group=tp_rank)
    first = SimpleNamespace(rank_in_group=0)
    state = SimpleNamespace(get_tp_group=lambda: group, get_pcp_group=lambda: first)
    distributed = ModuleType("vllm.distributed")
    distributed.parallel_state = state
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.distributed", distributed)


def sampling(*, max_tokens, ignore_eos=False, stop_token_ids=(), **extra):
    """Sampling parameters with the private fields that vLLM's engine sets."""
    return SimpleNamespace(
        max_tokens=max_tokens,
        ignore_eos=ignore_eos,
        stop_token_ids=list(stop_token_ids),
        _eos_token_id=None if ignore_eos else END,
        _all_stop_token_ids=set(stop_token_ids),
        extra_args=extra or None,
    )


def next_token(text):
    """The model: a short memory, so that texts repeat and drafts are accepted."""
    return int((text[-1] * 7 + text[-2] * 3 + len(text) // 29) % VOCABULARY)


@dataclass(eq=False)
class Simulated:
    """A request."""

    name: str
    prompt: list[int]
    params: SimpleNamespace
    text: list[int] = field(default_factory=list)
    read: int = 0
    draft: list[int] = field(default_factory=list)
    answer: list[int] = field(default_factory=list)
    is_finished: bool = False

    def accept(self):
        """Verify the draft: return all new tokens, also those behind the end, and keep the answer's own."""
        new = []
        for drafted in [*self.draft, None]:
            token = next_token([*self.text, *new])
            new.append(token)
            if token != drafted:
                break
        self.text += new
        for token in new:
            self.answer.append(token)
            stops = set(self.params.stop_token_ids) | (set() if self.params.ignore_eos else {END})
            if token in stops or len(self.answer) == self.params.max_tokens:
                self.is_finished = True
                break
        return new


class SimulatedRunner:
    """Rows of requests, and the proposer that it has made."""

    def __init__(self, config, *, chunk_tokens=16):
        self.requests, self.rows, self.chunk_tokens = {}, [], chunk_tokens
        self.input_batch = SimpleNamespace(req_ids=[])
        self.token_ids = np.zeros((16, MAX_MODEL_LEN + 1), np.int32)
        self.drafter = self._made(config)
        self.draft_sizes = []

    def _made(self, config):
        return Proposer(config)

    def add(self, request):
        """Give a request a row; a preempted one comes back with all its text to be read again."""
        self.requests[request.name] = SimpleNamespace(
            sampling_params=request.params, num_prompt_tokens=len(request.prompt)
        )
        request.text = request.text or list(request.prompt)
        request.read, request.draft = 0, []
        self.rows.append(request)

    def take_away(self, request, *, forget):
        """Free a row; the last one moves there."""
        row = self.rows.index(request)
        self.rows[row] = self.rows[-1]
        self.rows.pop()
        if forget:
            del self.requests[request.name]

    def swap(self, one, other):
        """Exchange two rows."""
        self.rows[one], self.rows[other] = self.rows[other], self.rows[one]

    def finish_steps(self):
        """Take away what is finished, as the scheduler does before the next step."""
        for request in [request for request in self.rows if request.is_finished]:
            self.take_away(request, forget=True)

    def step(self):
        """Do a step of all rows."""
        scheduled = SimpleNamespace(scheduled_spec_decode_tokens={}, total_num_scheduled_tokens=0)
        work = []
        for request in self.rows:
            left = len(request.text) - request.read
            is_decoding = request.read == len(request.text) - 1 and request.answer
            tokens = min(left, self.chunk_tokens) + (len(request.draft) if is_decoding else 0)
            if is_decoding and request.draft:
                scheduled.scheduled_spec_decode_tokens[request.name] = request.draft
            scheduled.total_num_scheduled_tokens += tokens
            work.append(left <= self.chunk_tokens)
        self.execute_model(scheduled)
        sampled = []
        for request, reads_all in zip(self.rows, work, strict=True):
            if reads_all:
                before = len(request.text)
                sampled.append(request.accept())
                request.read = before + len(sampled[-1]) - 1
            else:
                request.read += self.chunk_tokens
                sampled.append([])
            request.draft = []
        self.input_batch.req_ids = [request.name for request in self.rows]
        for row, request in enumerate(self.rows):
            self.token_ids[row] = -1
            self.token_ids[row, : len(request.text)] = request.text
        drafts = self.propose_draft_token_ids(scheduled, sampled)
        for request, draft, new in zip(self.rows, drafts, sampled, strict=True):
            assert new or not draft, "a row whose prompt is still read gets no draft"
            assert len(request.text) + len(draft) < MAX_MODEL_LEN
            request.draft = draft
        self.draft_sizes.append([len(draft) for draft in drafts])

    def execute_model(self, scheduler_output):
        """What vLLM calls first in a step."""

    def propose_draft_token_ids(self, scheduler_output, sampled):
        """What vLLM's runner calls last."""
        del scheduler_output
        lengths = np.array([len(request.text) for request in self.rows], np.int32)
        return self.drafter.propose(sampled, lengths, self.token_ids, slot_mappings=None)


class UnknownRunner(SimulatedRunner):
    """One that the proposer cannot bind itself to."""

    def _made(self, config):
        return _proposer_of_nobody(config)


def _proposer_of_nobody(config):
    made = []

    def make():  # in a thread, so that no runner is among the callers
        made.append(Proposer(config))

    thread = Thread(target=make)
    thread.start()
    thread.join()
    return made[0]
