"""The exchange of Ray's replicas, with the board in this process: nothing is lost or repeated."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookahead.drafting.exchange.replica import Replica
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.errors import ExchangeError, LookaheadError, MissingDependencyError
from lookahead.integrations.ray.board import NamedBoard
from lookahead.integrations.ray.exchange import RayExchange
from lookahead.integrations.ray.replica import ForgetfulExchange


class Actor:
    """A board that can be restarted and cut off, as an actor can."""

    def __init__(self):
        self.restart()
        self.is_reachable = True

    def restart(self):
        self.board = NamedBoard()

    def __call__(self, method, *arguments):
        if not self.is_reachable:
            message = "cannot be reached"
            raise ExchangeError(message)
        return getattr(self.board, method)(*arguments)


class Peer:
    def __init__(self, actor):
        self.memory = DraftMemory(max_bytes=2**20)
        self.replica = Replica(self.memory, RayExchange("test", self.memory, call=actor))

    def learn(self, namespace, *tokens):
        self.memory.warm([list(tokens)], namespace=namespace)

    def exchange(self):
        try:
            return self.replica.exchange()
        except LookaheadError:  # as the background thread does
            return 0


def settle(*peers, rounds=4):
    for _ in range(rounds):
        for peer in peers:
            peer.exchange()


def test_each_text_is_learned_once_after_ten_rounds():
    actor = Actor()
    one, other = Peer(actor), Peer(actor)
    for _ in range(10):
        one.learn("tenant-a", 1, 2, 3)
        other.learn("tenant-b", 4, 5)
        settle(one, other)
    assert one.memory.namespaces == other.memory.namespaces == {"tenant-a": 30, "tenant-b": 20}


def test_a_late_replica_gets_what_the_board_holds():
    actor = Actor()
    one = Peer(actor)
    one.learn("tenant-a", 1, 2, 3)
    settle(one)
    late = Peer(actor)
    assert late.exchange() == 3


def test_what_a_lost_board_had_not_handed_out_is_handed_out_by_the_next_one():
    actor = Actor()
    one, other = Peer(actor), Peer(actor)
    one.learn("tenant-a", 1, 2, 3)
    settle(one, other)
    one.learn("tenant-a", 4, 5)
    one.exchange()  # on the board, and not yet read
    actor.restart()
    one.learn("tenant-a", 6)
    settle(one, other)
    assert other.memory.namespaces == one.memory.namespaces == {"tenant-a": 6}


def test_a_restart_between_reading_and_publishing_leaves_no_gap():
    actor = Actor()
    one, other = Peer(actor), Peer(actor)
    one.learn("tenant-a", 1, 2, 3)
    settle(one)
    exchange = RayExchange("test", one.memory, call=actor)
    exchange.receive()
    actor.restart()
    one.learn("tenant-a", 4)
    with pytest.raises(ExchangeError, match="was restarted"):
        exchange.publish(one.memory.updates(1))
    assert actor.board.since(None, 0, "")[2] == []
    settle(one, other)
    assert other.memory.namespaces == {"tenant-a": 4}


def test_what_others_forgot_does_not_come_back_with_a_restart():
    actor = Actor()
    one, other = Peer(actor), Peer(actor)
    one.learn("tenant-a", 1, 2, 3)
    settle(one, other)
    other.memory.forget_namespace("tenant-a")
    actor.restart()
    other.exchange()
    other.exchange()
    settle(one, other)
    late = Peer(actor)
    settle(late)
    assert one.memory.namespaces == other.memory.namespaces == late.memory.namespaces == {}


def test_while_the_actor_is_unreachable_nothing_is_lost():
    actor = Actor()
    one, other = Peer(actor), Peer(actor)
    settle(one, other)
    actor.is_reachable = False
    one.learn("tenant-a", 1, 2, 3)
    with pytest.raises(ExchangeError, match="cannot be reached"):
        one.replica.exchange()
    actor.is_reachable = True
    settle(one, other)
    assert other.memory.namespaces == {"tenant-a": 3}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("learn"), st.integers(0, 2), st.sampled_from("ab"), st.integers(1, 4)),
        st.tuples(st.just("exchange"), st.integers(0, 2)),
        st.tuples(st.just("restart")),
        st.tuples(st.just("reach"), st.booleans()),
    ),
    max_size=40,
)


@given(steps=STEPS)
def test_all_memories_are_the_same_in_the_end_whatever_happens_to_the_actor(steps):
    actor = Actor()
    peers = [Peer(actor) for _ in range(3)]
    learned = {}
    for step in steps:
        match step:
            case ("learn", number, namespace, count):
                peers[number].learn(namespace, *range(count))
                learned[namespace] = learned.get(namespace, 0) + count
            case ("exchange", number):
                peers[number].exchange()
            case ("restart",):
                actor.restart()
            case ("reach", is_reachable):
                actor.is_reachable = is_reachable
    actor.is_reachable = True
    settle(*peers)
    assert [peer.memory.namespaces for peer in peers] == [learned] * 3


def test_the_prefix_cache_forgets_what_others_were_told_to_forget():
    actor, forgotten = Actor(), []
    one, other = Peer(actor), DraftMemory(max_bytes=2**20)
    exchange = ForgetfulExchange(RayExchange("test", other, call=actor), lambda: forgotten.append(1))
    replica = Replica(other, exchange)
    one.learn("tenant-a", 1, 2, 3)
    one.exchange()
    replica.exchange()
    assert forgotten == []
    one.memory.forget_namespace("tenant-a")
    one.exchange()
    replica.exchange()
    assert forgotten == [1]
    other.warm([[1]], namespace="b")
    replica.exchange()
    assert one.exchange() == 1


def test_without_ray_a_call_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    exchange = RayExchange("test", DraftMemory(max_bytes=2**20))
    with pytest.raises(MissingDependencyError, match=r"lookahead-llm\[ray\]"):
        exchange.receive()
