"""Guesses by hand: frequent tokens and what the model nearly chose, where no match names a token."""

import numpy as np
import pytest

from helpers.drafts import branches, first_tokens, log_of, propose
from lookahead import DraftMemory
from lookahead.config import DraftMode
from lookahead.drafting.growth.candidates import GUESSED, NOT_DRAFTED
from lookahead.drafting.growth.frequent import FREQUENT
from lookahead.drafting.log.token_log import TokenLog
from lookahead.drafting.store import Origin

PROMPT, OUTPUT = Origin.PROMPT, Origin.OUTPUT
FREQUENT_TEXT = [5, 6, 5, 7, 5, 6, 5]


def opened(log, name, namespace, tokens, **options):
    log.open(name, namespace=namespace, **options)
    log.insert(name, tokens, PROMPT)
    return name


def test_after_an_unknown_token_frequent_ones_are_drafted_the_most_frequent_first():
    log = log_of(FREQUENT_TEXT)
    log.insert("now", [1], PROMPT)
    draft = propose(log, depth=1)
    assert set(first_tokens(draft)) == {5, 6, 7}
    for _ in range(30):  # it learns that they come
        for token in (5, 1):
            propose(log, depth=1)
            log.insert("now", [token], OUTPUT)
        log.insert("now", [100 + _], OUTPUT)
    assert first_tokens(propose(log, depth=1))[0] in (1, 5)


def test_prompts_are_not_counted():
    log = TokenLog()
    log.insert("now", [5, 6, 5, 6, 1], PROMPT)
    assert branches(propose(log, depth=1)) == []


def test_each_namespace_has_its_own_frequent_tokens():
    log = TokenLog()
    log.remember(FREQUENT_TEXT, "tenant")
    opened(log, "same", "tenant", [1])
    opened(log, "other", "other", [1])
    opened(log, "reader", "other", [1], reads=["tenant"])
    assert set(first_tokens(propose(log, "same", depth=1))) == {5, 6, 7}
    assert branches(propose(log, "other", depth=1)) == branches(propose(log, "reader", depth=1)) == []
    log.forget_namespace("tenant")
    opened(log, "again", "tenant", [1])
    assert branches(propose(log, "again", depth=1)) == []


def test_a_request_that_is_not_remembered_leaves_no_counts():
    log = TokenLog()
    opened(log, "secret", "tenant", [1], remember=False)
    log.insert("secret", FREQUENT_TEXT, OUTPUT)
    opened(log, "now", "tenant", [1])
    assert branches(propose(log, depth=1)) == []


@pytest.mark.parametrize("how", ["warm", "file", "merge", "update"])
def test_what_a_memory_takes_over_is_counted(how, tmp_path):
    memory = DraftMemory()
    memory.updates()
    memory.warm([FREQUENT_TEXT], namespace="tenant")
    if how == "file":
        memory.save(tmp_path / "memory")
        memory = DraftMemory.load(tmp_path / "memory")
    elif how in ("merge", "update"):
        other, memory = memory, DraftMemory()
        if how == "merge":
            memory.merge(other)
        else:
            memory.apply(other.updates())
    opened(memory.store, "now", "tenant", [1])
    assert set(first_tokens(propose(memory.store, depth=1))) == {5, 6, 7}


def test_no_token_beyond_the_vocabulary_is_guessed():
    memory = DraftMemory(max_bytes=2**16)
    memory.warm([[50, 51, 50, 51]])
    memory.warm([[3] * 40] * 40)  # the text itself is overwritten
    memory.bind(vocabulary_size=40)
    memory.store.insert("now", [1], PROMPT)
    assert set(propose(memory.store, depth=1).token_ids.tolist()) == {1, 3}


def test_likely_nodes_have_more_guesses():
    log = log_of([*range(10, 10 + 2 * FREQUENT)] * 2)
    log.insert("now", [1], PROMPT)
    assert len(propose(log, length=100, depth=1)) == 1 + FREQUENT


def test_the_models_other_choices_are_guessed_after_the_newest_token():
    log = TokenLog()
    log.insert("now", [1], PROMPT)
    log.insert("now", [2], OUTPUT)
    log.recycle("now", [1], [[2, 3, 4]], accepted=1)
    assert set(first_tokens(propose(log, depth=1))) == {2, 3, 4}
    log.insert("now", [9], OUTPUT)  # without a row of its own: 3 and 4 are runner-ups, 2 has come
    assert set(first_tokens(propose(log, depth=1))) == {3, 4, 2, 9}


def test_rejected_nodes_leave_no_runner_ups():
    log = TokenLog()
    log.insert("now", [1], PROMPT)
    log.recycle("now", [7, 1], [[8, 9], [3, 4]], accepted=1)
    log.insert("now", [2], PROMPT)
    assert set(first_tokens(propose(log, depth=1))) == {3, 4}


def test_of_another_request_nothing_is_a_runner_up():
    log = TokenLog()
    log.insert("beside", [1], PROMPT)
    log.recycle("beside", [1], [[3, 4]], accepted=1)
    log.insert("now", [2], PROMPT)
    assert branches(propose(log, depth=1)) == []


def test_a_guess_that_came_is_told():
    log = log_of(FREQUENT_TEXT)
    log.insert("now", [1], PROMPT)
    propose(log, depth=1)
    log.insert("now", [5, 1], OUTPUT)
    assert log.sources("now").tolist() == [GUESSED, NOT_DRAFTED]


@pytest.mark.parametrize("mode", list(DraftMode))
def test_every_shape_has_guesses(mode):
    log = log_of(FREQUENT_TEXT)
    log.insert("now", [1], PROMPT)
    assert len(propose(log, mode=mode)) > 1
    assert np.isfinite(propose(log, mode=mode).probabilities).all()
