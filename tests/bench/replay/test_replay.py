"""Replay over hand-made traces: what is counted, and that no draft sees the future."""

import gzip
import hashlib
import json

import numpy as np
import pytest

from lookahead.bench.data.traces import Trace, read_traces, without_loop
from lookahead.bench.replay.drafters import make_replayed
from lookahead.bench.replay.replay import accepted_levels, replay
from lookahead.bench.replay.results import summarise_replay
from lookahead.cli import main
from lookahead.config import LookaheadConfig
from lookahead.errors import ConfigError, DataFormatError, NotFoundError
from research.peers.peer import chain_tree
from research.replay.drafters import REPLAYED


def ids(*tokens):
    return np.array(tokens, np.int32)


def trace(prompt, output, category="qa", successors=None):
    rows = np.zeros((len(output), 0)) if successors is None else np.array(successors)
    return Trace(
        trace_id=0,
        category=category,
        prompt_ids=ids(*prompt),
        output_ids=ids(*output),
        successor_ids=rows.astype(np.int32),
    )


class Spy:
    """Drafts what the test sets, and remembers all that it was shown."""

    calibrated = True

    def __init__(self, drafts):
        self.drafts = drafts
        self.seen = []
        self.nbytes = 0

    def begin(self, prompt_ids):
        self.seen.append(("begin", prompt_ids.tolist()))

    def propose(self, draft_tokens, max_depth):
        self.seen.append(("propose", draft_tokens, max_depth))
        return chain_tree(0, ids(*self.drafts.pop(0)))

    def learn(self, token_ids):
        self.seen.append(("learn", token_ids.tolist()))

    def recycle(self, token_ids, successors):
        self.seen.append(("recycle", token_ids.tolist(), successors.tolist()))

    def end(self):
        self.seen.append(("end",))


def test_counts_what_greedy_verification_would_emit():
    spy = Spy([[2, 3, 9], [], [6]])
    result = replay(spy, [trace([7], [1, 2, 3, 4, 5, 6])], draft_tokens=3)
    assert spy.seen == [
        ("begin", [7]),
        ("learn", [1]),
        ("propose", 3, 4),
        ("learn", [2, 3, 4]),
        ("propose", 3, 1),
        ("learn", [5]),
        ("propose", 3, 0),
        ("learn", [6]),
        ("end",),
    ]
    assert (result.overall.tokens, result.overall.steps) == (5, 3)
    row = summarise_replay("spy", 3, result)
    assert row["mean_acceptance_length"] == round(5 / 3, 4)
    assert row["by_category"] == {"qa": round(5 / 3, 4)}


def test_successors_are_shown_once_the_token_they_chose_is_out():
    successors = [[1, 11], [2, 12], [3, 13], [4, 14]]
    spy = Spy([[2, 9], []])
    result = replay(spy, [trace([5, 7], [1, 2, 3, 4], successors=successors)], draft_tokens=2)
    assert [call for call in spy.seen if call[0] in {"learn", "recycle"}] == [
        ("learn", [1]),
        ("recycle", [7], [[1, 11]]),
        ("learn", [2, 3]),
        ("recycle", [1, 2], [[2, 12], [3, 13]]),
        ("learn", [4]),
        ("recycle", [3], [[4, 14]]),
    ]
    assert (result.recycled_tokens, len(result.recycle_s)) == (4, 3)


def test_an_empty_prompt_has_no_last_token_to_recycle_for():
    spy = Spy([[]])
    replay(spy, [trace([], [1, 2], successors=[[1], [2]])], draft_tokens=2)
    assert [call for call in spy.seen if call[0] == "recycle"] == [("recycle", [1], [[2]])]


def test_recycling_can_be_left_out():
    spy = Spy([[]])
    replay(spy, [trace([7], [1, 2], successors=[[1], [2]])], draft_tokens=2, recycling=False)
    assert not [call for call in spy.seen if call[0] == "recycle"]


def test_halves_and_categories_are_kept_apart():
    spy = Spy([[2], [9], [9]])
    result = replay(spy, [trace([7], [1, 2, 3]), trace([7], [1, 2, 3], "rag")], draft_tokens=1)
    assert [(half.tokens, half.steps) for half in result.halves] == [(2, 1), (2, 2)]
    assert (result.by_category["qa"].steps, result.by_category["rag"].steps) == (1, 2)


@pytest.mark.parametrize("name", REPLAYED)
def test_a_changed_future_leaves_the_present_draft_as_it_was(name):
    if name.startswith("arctic"):
        pytest.importorskip("arctic_inference")
    rng = np.random.default_rng(0)
    prompt, output = rng.integers(0, 5, 30), rng.integers(0, 5, 40)
    other = np.concatenate([output[:20], (output[20:] + 1) % 5])
    successors = rng.integers(0, 5, (40, 2))
    other_successors = np.concatenate([successors[:20], (successors[20:] + 1) % 5])

    def drafts(answer, held_likely):
        drafter = REPLAYED[name](LookaheadConfig())
        made = []
        original = drafter.propose

        def propose(draft_tokens, max_depth):
            tree = original(draft_tokens, max_depth)
            made.append((position(), tree.token_ids.tolist(), tree.parents.tolist()))
            return tree

        learned = []
        learn = drafter.learn
        drafter.learn = lambda tokens: (learned.extend(tokens.tolist()), learn(tokens))[1]
        drafter.propose = propose
        position = lambda: len(learned)  # noqa: E731
        replay(drafter, [trace(prompt, answer, successors=held_likely)], draft_tokens=6)
        return made

    first, second = drafts(output, successors), drafts(other, other_successors)
    up_to_change = [draft for draft in first if draft[0] <= 20]
    assert len(up_to_change) > 3
    assert second[: len(up_to_change)] == up_to_change


def test_accepted_levels_follow_the_tree():
    tree = chain_tree(0, ids(4, 5, 6))
    assert accepted_levels(tree, ids(4, 5, 9)) == [[0], [1], [2]]
    assert accepted_levels(tree, ids(4, 5)) == [[0], [1], [2]]
    assert accepted_levels(tree, ids()) == [[0]]


@pytest.mark.parametrize(
    ("output", "kept"),
    [
        ([1, 2, 3, 4, 5], 5),
        ([1, 2, 3, 9, 9, 9, 9], 4),
        ([1, 2, 7, 8, 7, 8, 7, 8], 4),
        ([1, 2, 7, 8, 7, 8, 7], 7),  # two and a half turns are no loop
        ([4, 4, 4], 1),
    ],
)
def test_a_loop_is_a_tail_said_three_times(output, kept):
    assert len(without_loop(ids(*output))) == kept


def written(tmp_path, *lines):
    path = tmp_path / "traces.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


GOOD = json.dumps({"id": 1, "category": "coding", "prompt_ids": [1, 2], "output_ids": [1, 2, 1, 2, 1]})


def test_traces_are_read(tmp_path):
    (read,) = read_traces(written(tmp_path, GOOD))
    assert (read.category, read.prompt_ids.tolist(), read.output_ids.tolist()) == (
        "mt_bench",
        [1, 2],
        [1, 2, 1, 2, 1],
    )
    assert read.successor_ids.shape == (5, 0)


def test_successors_are_read(tmp_path):
    with_successors = json.dumps({**json.loads(GOOD), "top8_ids": [[1, 3]] * 5})
    (read,) = read_traces(written(tmp_path, with_successors))
    assert read.successor_ids.dtype == np.int32
    assert read.successor_ids.tolist() == [[1, 3]] * 5


@pytest.mark.parametrize("rows", [[], [[1]] * 4, [[1]] * 4 + [[1, 2]], [[-1]] * 5, [["a"]] * 5, [1] * 5, "x"])
def test_malformed_successors_are_named_by_their_line(tmp_path, rows):
    bad = json.dumps({**json.loads(GOOD), "top8_ids": rows})
    with pytest.raises(DataFormatError, match=r"line 1: 'top8_ids' must be 5 lists of token ids"):
        read_traces(written(tmp_path, bad))


@pytest.mark.parametrize("output", [[], [1, -1], [1, "2"], [1.5], None, [2**31], [True]])
def test_a_malformed_trace_is_named_by_its_line(tmp_path, output):
    bad = json.dumps({"id": 2, "category": "qa", "prompt_ids": [1], "output_ids": output})
    with pytest.raises(DataFormatError, match=r"line 2: 'output_ids' must be"):
        read_traces(written(tmp_path, GOOD, bad))


def test_missing_file_and_unknown_store():
    with pytest.raises(NotFoundError):
        read_traces("nowhere.jsonl" and __import__("pathlib").Path("nowhere.jsonl"))
    with pytest.raises(ConfigError, match="'suffix-tree' is unknown"):
        make_replayed(["suffix-tree"])
    with pytest.raises(ConfigError, match="'llma' is unknown; choose from log, trie"):
        make_replayed(["llma"])


def test_the_command_writes_one_row_for_each_store_and_size(tmp_path, capsys):
    path, report = written(tmp_path, GOOD, GOOD), tmp_path / "report.json"
    arguments = ["replay", str(path), "--store", "trie", "--store", "trie-parallel"]
    with pytest.raises(SystemExit, match="0"):
        main([*arguments, "--draft-tokens", "2,4", "--memory-tokens", "2000", "--json", str(report)])
    results = json.loads(report.read_text())["results"]
    assert [(row["store"], row["draft_tokens"]) for row in results] == [
        ("trie", 2),
        ("trie", 4),
        ("trie-parallel", 2),
        ("trie-parallel", 4),
    ]
    assert all(row["mean_acceptance_length"] > 1 for row in results)
    assert [row["bytes_per_token"] is not None for row in results] == [True, True, False, False]
    assert json.loads(report.read_text())["command"].startswith("lookahead")
    assert json.loads(report.read_text())["environment"]["logical_cores"] > 0
    assert "Mean acceptance length" in capsys.readouterr().out


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["replay", *map(str, arguments)])
    return ended.value.code


def test_a_warm_memory_knows_what_it_was_warmed_with(tmp_path, capsys):
    once = json.dumps({"id": 1, "category": "qa", "prompt_ids": [1], "output_ids": [*range(10, 40)]})
    path, report = written(tmp_path, once), tmp_path / "report.json"
    lengths = {}
    for memory, options in {"cold": [], "warm": ["--warm", path]}.items():
        assert run(path, "--store", "log", "--draft-tokens", 8, "--json", report, *options) == 0
        told = json.loads(report.read_text())
        assert told["memory"] == memory
        lengths[memory] = told["results"][0]["mean_acceptance_length"]
    assert lengths["warm"] > 3 > lengths["cold"]
    assert told["warmed_with"]["data"] == path.name
    assert told["warmed_with"]["data_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "warm" in capsys.readouterr().out


@pytest.mark.parametrize("sizes", ["", "0", "4,x", "-1"])
def test_sizes_that_are_none_are_refused(tmp_path, sizes, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["replay", str(written(tmp_path, GOOD)), f"--draft-tokens={sizes}"])
    assert "--draft-tokens" in capsys.readouterr().err
