"""Replicas that exchange: each text once everywhere, forgotten texts nowhere, after restarts too."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookahead import DraftMemory
from lookahead.drafting.exchange.board import UpdateBoard
from lookahead.drafting.exchange.files import FileExchange
from lookahead.drafting.exchange.replica import Replica
from lookahead.drafting.memory.journal import LearnedText, MemoryUpdate
from lookahead.errors import MemoryFileError

MAX_BYTES = 2**22


class BoardExchange:
    """A board in the same process."""

    def __init__(self, board, memory):
        self.board, self.source, self.number = board, memory.updates().source, 0

    def publish(self, update):
        self.board.publish(update)

    def receive(self):
        self.number, updates = self.board.since(self.number, self.source)
        return updates


def replicas(count):
    board = UpdateBoard()
    memories = [DraftMemory(max_bytes=MAX_BYTES) for _ in range(count)]
    return memories, [Replica(memory, BoardExchange(board, memory)) for memory in memories]


def test_after_rounds_all_have_each_text_once():
    memories, made = replicas(3)
    for number in range(10):
        for place, memory in enumerate(memories):
            memory.warm([[place, number, number]], namespace=f"tenant-{place}")
        for replica in made:
            replica.exchange()
    for replica in made:
        replica.exchange()
    expected = {f"tenant-{place}": 30 for place in range(3)}
    assert [dict(sorted(memory.namespaces.items())) for memory in memories] == [expected] * 3


def test_a_replica_that_comes_later_gets_what_the_board_holds():
    memories, made = replicas(2)
    memories[0].warm([[1, 2, 3]])
    made[0].exchange()
    assert made[1].exchange() == 3


def test_what_one_forgets_all_forget_and_a_new_one_never_learns():
    memories, made = replicas(3)
    for memory in memories[:2]:
        memory.warm([[1, 2]], namespace="a")
        memory.warm([[3]], namespace="b")
    for replica in made * 2:
        replica.exchange()
    memories[0].forget_namespace("a")
    memories[1].warm([[9, 9]], namespace="a")  # learned before it heard of it
    for replica in made * 2:
        replica.exchange()
    assert [memory.namespaces for memory in memories] == [{"b": 2}] * 3
    memories[0].warm([[5]], namespace="a")  # it may be used again
    for replica in made * 2:
        replica.exchange()
    assert all(memory.namespaces["a"] == 1 for memory in memories)


def test_a_restart_from_a_file_repeats_nothing(tmp_path):
    folder = tmp_path / "updates"
    folder.mkdir()
    file = tmp_path / "memory.safetensors"
    one, other = DraftMemory(max_bytes=MAX_BYTES), DraftMemory(max_bytes=MAX_BYTES)
    pair = [Replica(memory, FileExchange(folder)) for memory in (one, other)]
    one.warm([[1, 2, 3]])
    other.warm([[4, 5]])
    for replica in pair * 2:
        replica.exchange()
    one.save(file)
    one.warm([[6]])  # published, but not in the file
    pair[0].exchange()
    again = DraftMemory.load(file)
    assert Replica(again, FileExchange(folder)).exchange() == 1
    assert again.namespaces == {"default": 6}
    assert DraftMemory.load(file).namespaces == {"default": 5}


def test_an_update_of_another_vocabulary_is_left_out_and_others_are_taken(caplog):
    (memory,), (replica,) = replicas(1)
    memory.bind(vocabulary_size=10)
    text = LearnedText("default", np.array([1], np.int32))
    board = replica._exchange.board
    for number in range(2):
        board.publish(MemoryUpdate(source="foreign", begin=number, texts=(text,), vocabulary_size=11))
    board.publish(MemoryUpdate(source="ours", begin=0, texts=(text,), vocabulary_size=10))
    assert replica.exchange() == 1
    assert caplog.text.count("foreign") == 1


def test_faults_are_logged_and_tried_again_in_the_background(caplog):
    memory = DraftMemory(max_bytes=MAX_BYTES)

    class Broken:
        calls = 0

        def receive(self):
            Broken.calls += 1
            if Broken.calls < 3:
                message = "the folder is gone"
                raise MemoryFileError(message)
            return [MemoryUpdate(source="x", begin=0, texts=(LearnedText("a", np.array([1], np.int32)),))]

        def publish(self, _update):
            raise AssertionError

    replica = Replica(memory, Broken(), every_s=0.01)
    replica.start()
    end = time.monotonic() + 30
    while not memory.namespaces:
        assert time.monotonic() < end
        time.sleep(0.01)
    replica.close()
    assert memory.namespaces == {"a": 1}
    assert caplog.text.count("the folder is gone") == 1


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("learn"), st.integers(0, 2), st.sampled_from("ab")),
        st.tuples(st.just("forget"), st.integers(0, 2), st.sampled_from("ab")),
        st.tuples(st.just("exchange"), st.integers(0, 2), st.none()),
    ),
    max_size=25,
)


@settings(max_examples=60)
@given(events=EVENTS)
def test_in_any_order_all_end_alike_and_nothing_is_repeated(events):
    memories, made = replicas(3)
    learned = 0
    for kind, place, namespace in events:
        if kind == "learn":
            learned += 1
            memories[place].warm([[learned]], namespace=namespace)
        elif kind == "forget":
            memories[place].forget_namespace(namespace)
        else:
            made[place].exchange()
    for replica in made * 2:
        replica.exchange()
    held = [memory.namespaces for memory in memories]
    assert held[0] == held[1] == held[2]
    assert sum(held[0].values()) <= learned
    if not any(kind == "forget" for kind, _, _ in events):
        assert sum(held[0].values()) == learned


@pytest.mark.parametrize("every_s", [0.02])
def test_closing_publishes_what_is_left(every_s, tmp_path):
    memory = DraftMemory(max_bytes=MAX_BYTES)
    replica = Replica(memory, FileExchange(tmp_path), every_s=every_s)
    replica.start()
    memory.warm([[1, 2]])
    replica.close()
    other = DraftMemory(max_bytes=MAX_BYTES)
    assert Replica(other, FileExchange(tmp_path)).exchange() == 2
