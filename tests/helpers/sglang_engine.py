"""A simulated SGLang engine: it verifies greedily, and its model knows the answers by heart."""

from array import array
from types import SimpleNamespace

import numpy as np
import torch

from helpers.sglang_modules import DECODE

END, BEHIND = 1, 2
"""The token that ends an answer, and what the model says behind it."""


class Request:
    """SGLang's `Req` as far as the worker and our plugin read it."""

    def __init__(self, rid, prompt, answer, *, salt=None, key=None, custom=None):
        self.rid, self.answer = rid, [*answer, END]
        self.origin_input_ids = self.origin_input_ids_unpadded = array("q", prompt)
        self.output_ids = array("q")
        self.cache_salt, self.extra_key, self.lora_id = salt, key, None
        self.sampling_params = SimpleNamespace(custom_params=custom)
        self.finished_len = None

    @property
    def output_ids_through_stop(self):
        return self.output_ids if self.finished_len is None else self.output_ids[: self.finished_len]

    def finished(self):
        return self.finished_len is not None

    def token(self, place):
        """Return the model's token at a place of the answer."""
        return self.answer[place] if place < len(self.answer) else BEHIND


def parents_of(mask, rows, nodes):
    """Return each node's parent as SGLang derives it: the largest ancestor before it; -1 for none."""
    tree = np.asarray(mask).reshape(rows, nodes, nodes).astype(bool)
    order = np.arange(nodes)
    ancestors = tree & (order < order[:, None])
    return np.where(ancestors.any(-1), (ancestors * order).argmax(-1), -1)


class Engine:
    """Serves requests with a worker, step by step.

    Args:
        worker: An instance of the worker's class.
        settings: The namespace that the modules read.
    """

    def __init__(self, worker, settings):
        self._worker, self._settings = worker, settings
        self._nodes = settings.spec.speculative_num_draft_tokens
        self.running, self.steps, self.drafts = [], 0, []
        self._places, self._relay, self._waiting = {}, {}, []
        settings.sample = self._sample

    def add(self, request):
        """Prefill a request: its next token is there, and with overlap it is not in the output yet."""
        place = len(request.output_ids)
        self._places[request.rid] = place + 1
        tokens = np.zeros(self._nodes, np.int64)
        tokens[0] = request.token(place)
        self._relay[request.rid] = (torch.from_numpy(tokens), 1)
        if self._settings.overlap:
            self._waiting.append(([request], {request.rid: [request.token(place)]}))
        else:
            self._take(request, [request.token(place)])
        self.running.append(request)

    def preempt(self, request):
        """Take a request from the batch; `add` brings it back. What is under way for it is dropped."""
        for _, emitted in self._waiting:
            emitted.pop(request.rid, None)
        self.running.remove(request)

    def step(self):
        """Do one decode step of all rows."""
        self.running = [request for request in self.running if not request.finished()]
        if not self.running:
            return
        rows = list(self.running)
        lengths = [len(row.origin_input_ids_unpadded) + self._places[row.rid] - 1 for row in rows]
        batch = SimpleNamespace(
            reqs=rows,
            forward_mode=DECODE,
            seq_lens=torch.tensor(lengths),
            seq_lens_cpu=torch.tensor(lengths),
            spec_info=SimpleNamespace(
                accept_tokens=torch.cat([self._relay[row.rid][0] for row in rows]),
                accept_lens=torch.tensor([self._relay[row.rid][1] for row in rows]),
            ),
            has_grammar=False,
            grammar_needs_sync=lambda: False,
            req_pool_indices=None,
            req_to_token_pool=SimpleNamespace(req_to_token=None),
            return_logprob=False,
            sampling_info=None,
        )
        result = self._worker.forward_batch_generation(batch)
        self.steps += 1
        tokens = result.next_draft_input.accept_tokens.reshape(len(rows), self._nodes)
        emitted = {}
        for row, accepted in enumerate(result.accept_lens.tolist()):
            rid = rows[row].rid
            self._relay[rid] = (tokens[row], accepted)
            self._places[rid] += accepted
            emitted[rid] = tokens[row, :accepted].tolist()
        if self._settings.overlap:
            self._process()
        self._waiting.append((rows, emitted))
        if not self._settings.overlap:
            self._process()

    def run(self):
        """Serve until all requests are over."""
        while any(not request.finished() for request in self.running):
            self.step()
        self._process()

    def _process(self):
        for rows, emitted in self._waiting:
            for request in rows:
                if not request.finished() and request.rid in emitted:
                    self._take(request, emitted[request.rid])
        self._waiting = []

    def _take(self, request, tokens):
        request.output_ids.extend(tokens)
        if END in tokens:
            request.finished_len = len(request.output_ids) - len(tokens) + tokens.index(END) + 1
            self._worker.note_request_finished(rid=request.rid, natural_stop=True)

    def _sample(self, batch, tokens, mask):
        rows, nodes = len(batch.reqs), self._nodes
        tokens = tokens.reshape(rows, nodes).tolist()
        parents = parents_of(mask.numpy(), rows, nodes).tolist()
        predicted = torch.zeros(rows * nodes, dtype=torch.int64)
        index = torch.full((rows, nodes), -1, dtype=torch.int64)
        accepted = torch.zeros(rows, dtype=torch.int32)
        for row, request in enumerate(batch.reqs):
            place, node, path = self._places[request.rid], 0, []
            assert tokens[row][0] == request.token(place - 1)
            self.drafts.append((request.rid, tokens[row], parents[row]))
            while node is not None:
                path.append(node)
                said = request.token(place)
                predicted[row * nodes + node] = said
                place += 1
                children = (n for n in range(1, nodes) if parents[row][n] == node and tokens[row][n] == said)
                node = next(children, None)
            accepted[row] = len(path)
            index[row, : len(path)] = torch.tensor(path) + row * nodes
        return predicted, accepted, index
