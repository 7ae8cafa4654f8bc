"""The vLLM proposer answers calls that vLLM itself has made: recorded by `research.vllm.record_calls`."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.vllm_runner import stub_vllm
from lookahead.integrations.vllm.proposer import Proposer

RECORDS = sorted(Path(__file__).parent.glob("vllm_calls/*.json"))


class PlayedRunner:
    """A runner that repeats recorded calls."""

    def __init__(self, record):
        self.record, self.requests, self.texts = record, {}, {}
        self.input_batch = SimpleNamespace(req_ids=[])
        self.token_ids = np.zeros((8, 256), np.int32)
        self.drafter = Proposer(self._config())
        self.drafter.memory.memory.updates()

    def _config(self):
        model = SimpleNamespace(
            max_model_len=256,
            get_vocab_size=lambda: self.record["vocabulary"],
            try_get_generation_config=dict,
            hf_config=SimpleNamespace(eos_token_id=self.record["end_token"]),
        )
        return SimpleNamespace(
            additional_config={"lookahead": {"budget": "all", "max_bytes": 2**22}},
            speculative_config=SimpleNamespace(num_speculative_tokens=8),
            model_config=model,
            parallel_config=SimpleNamespace(data_parallel_size=1, data_parallel_rank=0),
            scheduler_config=SimpleNamespace(scheduler_cls=None),
        )

    def execute_model(self, scheduler_output):
        """What vLLM calls first in a step."""

    def propose_draft_token_ids(self, scheduler_output, call):
        """Hand a call to the proposer, as vLLM's runner does."""
        del scheduler_output
        sampled = [row["sampled"] for row in call["rows"]]
        lengths = np.array([row["length"] for row in call["rows"]], np.int32)
        return self.drafter.propose(sampled, lengths, self.token_ids, slot_mappings=None)

    def play(self, call):
        """Repeat one call; return its drafts."""
        self.requests = {name: self._state(name) for name in call["alive"]}
        self.input_batch.req_ids = [row["id"] for row in call["rows"]]
        for place, row in enumerate(call["rows"]):
            text = [*self.texts.get(row["id"], [])[: row["known"]], *row["new"]]
            self.texts[row["id"]] = text
            self.token_ids[place] = -1
            self.token_ids[place, : len(text)] = text
        scheduled = SimpleNamespace(
            scheduled_spec_decode_tokens={"all": [0] * call["drafts"]} if call["drafts"] else {},
            total_num_scheduled_tokens=call["scheduled"],
        )
        self.execute_model(scheduled)
        return self.propose_draft_token_ids(scheduled, call)

    def _state(self, name):
        request = self.record["requests"][name]
        params = SimpleNamespace(
            max_tokens=request["max_tokens"],
            ignore_eos=False,
            stop_token_ids=[],
            _eos_token_id=self.record["end_token"],
            _all_stop_token_ids={self.record["end_token"]},
            extra_args={"lookahead_namespace": request["namespace"]},
        )
        return SimpleNamespace(sampling_params=params, num_prompt_tokens=len(request["prompt"]))


@pytest.fixture(params=RECORDS, ids=[path.stem for path in RECORDS])
def record(request):
    return json.loads(request.param.read_text())


def test_there_are_records_of_both_versions():
    assert [path.stem for path in RECORDS] == ["vllm-0.29.0", "vllm-0.32.0"]


def test_the_record_has_what_it_is_made_for(record):
    calls = record["calls"]
    assert record["preemptions"] > 0
    assert any(not row["sampled"] for call in calls for row in call["rows"])  # prompts in chunks
    assert any(len(row["sampled"]) > 1 for call in calls for row in call["rows"])  # accepted drafts
    rows = {}
    for call in calls:
        for place, row in enumerate(call["rows"]):
            rows.setdefault(row["id"], set()).add(place)
    assert any(len(places) > 1 for places in rows.values())  # rows that move
    prompts = Counter(tuple(request["prompt"]) for request in record["requests"].values())
    assert max(prompts.values()) == 2


def test_each_answer_is_remembered_once_in_its_tenant(record, monkeypatch):
    stub_vllm(monkeypatch)
    runner = PlayedRunner(record)
    drafted = 0
    for call in record["calls"]:
        drafts = runner.play(call)
        assert len(drafts) == len(call["rows"])
        for row, draft in zip(call["rows"], drafts, strict=True):
            assert row["sampled"] or not draft
            assert len(draft) <= min(8, 256 - row["length"] - 1)
            drafted += len(draft)
    assert drafted > 0
    expected = Counter(
        (record["requests"][name]["namespace"], tuple(answer)) for name, answer in record["answers"].items()
    )
    runner.drafter.memory.close()
    texts = runner.drafter.memory.memory.updates().texts
    held = Counter((text.namespace, tuple(text.tokens.tolist())) for text in texts)
    assert held == expected
