"""Replay over hand-made traces: what is counted, and that no draft sees the future."""

import gzip
import json

import numpy as np
import pytest

from lookahead.bench.replay import accepted_length, replay, summarise_replay
from lookahead.bench.replayed import REPLAYED, PromptLookup, chain_tree, make_replayed
from lookahead.bench.traces import Trace, read_traces, without_loop
from lookahead.cli import main
from lookahead.config import LookaheadConfig
from lookahead.errors import ConfigError, DataFormatError, NotFoundError


def ids(*tokens):
    return np.array(tokens, np.int32)


def trace(prompt, output, category="qa"):
    return Trace(trace_id=0, category=category, prompt_ids=ids(*prompt), output_ids=ids(*output))


class Spy:
    """Drafts what it is told to and remembers all that it was shown."""

    def __init__(self, drafts):
        self.drafts = drafts
        self.seen = []
        self.nbytes = 0

    def begin(self, prompt_ids):
        self.seen.append(("begin", prompt_ids.tolist()))

    def propose(self, draft_tokens, most_levels):
        self.seen.append(("propose", draft_tokens, most_levels))
        return chain_tree(0, ids(*self.drafts.pop(0)))

    def learn(self, token_ids):
        self.seen.append(("learn", token_ids.tolist()))

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


def test_halves_and_categories_are_kept_apart():
    spy = Spy([[2], [9], [9]])
    result = replay(spy, [trace([7], [1, 2, 3]), trace([7], [1, 2, 3], "rag")], draft_tokens=1)
    assert [(half.tokens, half.steps) for half in result.halves] == [(2, 1), (2, 2)]
    assert (result.by_category["qa"].steps, result.by_category["rag"].steps) == (1, 2)


@pytest.mark.parametrize("name", REPLAYED)
def test_a_changed_future_leaves_the_present_draft_as_it_was(name):
    rng = np.random.default_rng(0)
    prompt, output = rng.integers(0, 5, 30), rng.integers(0, 5, 40)
    other = np.concatenate([output[:20], (output[20:] + 1) % 5])

    def drafts(answer):
        drafter = REPLAYED[name](LookaheadConfig())
        made = []
        original = drafter.propose

        def propose(draft_tokens, most_levels):
            tree = original(draft_tokens, most_levels)
            made.append((position(), tree.token_ids.tolist(), tree.parents.tolist()))
            return tree

        learned = []
        learn = drafter.learn
        drafter.learn = lambda tokens: (learned.extend(tokens.tolist()), learn(tokens))[1]
        drafter.propose = propose
        position = lambda: len(learned)  # noqa: E731
        replay(drafter, [trace(prompt, answer)], draft_tokens=6)
        return made

    first, second = drafts(output), drafts(other)
    up_to_change = [draft for draft in first if draft[0] <= 20]
    assert len(up_to_change) > 3
    assert second[: len(up_to_change)] == up_to_change


def test_prompt_lookup_copies_what_followed_the_first_occurrence():
    lookup = PromptLookup(longest_match=2, most_tokens=3)
    lookup.begin(ids(5, 6, 1, 2, 5, 6, 3, 4, 5))
    lookup.learn(ids(6))
    assert lookup.propose(8, 8).token_ids.tolist() == [6, 1, 2, 5]
    assert lookup.propose(8, 1).token_ids.tolist() == [6, 1]


def test_accepted_length_follows_the_tree():
    tree = chain_tree(0, ids(4, 5, 6))
    assert accepted_length(tree, ids(4, 5, 9)) == 2
    assert accepted_length(tree, ids(4, 5)) == 2
    assert accepted_length(tree, ids()) == 0


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


def test_the_command_writes_one_row_for_each_store_and_size(tmp_path, capsys):
    path, report = written(tmp_path, GOOD, GOOD), tmp_path / "report.json"
    arguments = ["replay", str(path), "--store", "trie", "--store", "prompt-lookup"]
    with pytest.raises(SystemExit, match="0"):
        main([*arguments, "--draft-tokens", "2,4", "--json", str(report)])
    results = json.loads(report.read_text())["results"]
    assert [(row["store"], row["draft_tokens"]) for row in results] == [
        ("trie", 2),
        ("trie", 4),
        ("prompt-lookup", 2),
        ("prompt-lookup", 4),
    ]
    assert all(row["mean_acceptance_length"] > 1 for row in results)
    assert "Mean acceptance length" in capsys.readouterr().out


@pytest.mark.parametrize("sizes", ["", "0", "4,x", "-1"])
def test_sizes_that_are_none_are_refused(tmp_path, sizes, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["replay", str(written(tmp_path, GOOD)), f"--draft-tokens={sizes}"])
    assert "--draft-tokens" in capsys.readouterr().err
