"""The board holds the newest updates of all, in order, and nothing that was forgotten."""

import numpy as np

from lookahead.drafting.exchange.board import UpdateBoard
from lookahead.drafting.memory.journal import LearnedText, MemoryUpdate


def update(source, begin, *texts):
    learned = tuple(
        LearnedText(name, np.array(tokens, np.int32), is_forgotten=not tokens) for name, tokens in texts
    )
    return MemoryUpdate(source=source, begin=begin, texts=learned)


def held(board, number=0, source=None):
    return [
        (one.source, [(text.namespace, text.tokens.tolist()) for text in one.texts])
        for one in board.since(number, source)[1]
    ]


def test_each_reads_from_where_it_stopped_and_not_its_own():
    board = UpdateBoard()
    board.publish(update("a", 0, ("x", [1, 2])))
    board.publish(update("b", 0, ("x", [3])))
    number, _ = board.since(0, "a")
    assert number == 2
    board.publish(update("a", 1, ("y", [4])))
    assert held(board, number, "a") == []
    assert held(board, number, "b") == [("a", [("y", [4])])]
    assert held(board, 0, "a") == [("b", [("x", [3])])]


def test_the_oldest_are_dropped_and_numbers_stay():
    board = UpdateBoard(max_tokens=5)
    for number in range(4):
        board.publish(update("a", number, ("x", [number, number])))
    assert board.since(0)[0] == 4
    assert held(board) == [("a", [("x", [2, 2])]), ("a", [("x", [3, 3])])]
    assert held(board, 3) == [("a", [("x", [3, 3])])]


def test_an_update_that_is_too_long_is_not_held():
    board = UpdateBoard(max_tokens=2)
    board.publish(update("a", 0, ("x", [1, 2, 3])))
    assert board.since(0) == (1, [])


def test_what_is_forgotten_is_dropped_from_what_came_before():
    board = UpdateBoard()
    board.publish(update("a", 0, ("x", [1, 2]), ("y", [3])))
    board.publish(update("b", 0, ("x", [])))
    board.publish(update("a", 2, ("x", [4])))
    assert held(board) == [
        ("a", [("x", []), ("y", [3])]),
        ("b", [("x", [])]),
        ("a", [("x", [4])]),
    ]
