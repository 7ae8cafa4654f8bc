"""`python -m research.fleet`: replicas behind a router that exchange what their memories learned."""

import json

import numpy as np
import pytest

from lookahead.bench.data.traces import Trace
from lookahead.bench.replay.drafters import StoreDrafter
from lookahead.bench.replay.replay import Tally, replay
from lookahead.config import LookaheadConfig
from lookahead.drafting.exchange.board import UpdateBoard
from lookahead.drafting.exchange.files import write_update
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.drafting.memory.journal import LearnedText, MemoryUpdate
from lookahead.errors import ConfigError
from research.fleet.__main__ import main
from research.fleet.figures import Kind, Sample, figures
from research.fleet.library import Library
from research.fleet.replicas import WatchedReplica, update_bytes
from research.fleet.routes import Route, namespace_of, routed
from research.fleet.simulation import Fleet, FleetSettings
from research.fleet.study import Study, run_study
from research.fleet.traffic import TrafficSettings, make_traffic

MEMORY_BYTES = 2**22
ALL = 10**6


def made_traces(count=12, vocabulary=2000):
    rng = np.random.default_rng(7)
    phrases = rng.integers(0, vocabulary, (20, 6)).astype(np.int32)
    traces = []
    for number in range(count):
        answer = phrases[rng.integers(0, 20, 4)].ravel()
        traces.append(
            Trace(
                trace_id=number,
                category="qa",
                prompt_ids=rng.integers(0, vocabulary, 10).astype(np.int32),
                output_ids=answer,
                successor_ids=np.stack([answer, (answer + 1) % vocabulary], axis=1),
            )
        )
    return traces


@pytest.fixture(scope="module")
def library():
    return Library(made_traces(), seed=0, undisguised=20)


def traffic_of(**settings):
    defaults = {"duration_s": 20.0, "requests_per_s": 5.0, "tenants": 6, "repeated": 0.4}
    return make_traffic(TrafficSettings(**(defaults | settings)))


def ran(traffic, library, **settings):
    defaults = {"memory_bytes": MEMORY_BYTES, "watched": 100, "measured": ALL, "replicas": 5}
    fleet = Fleet(FleetSettings(**(defaults | settings)), traffic, library)
    fleet.run()
    return fleet


def answers(traffic, library, chosen=slice(None)):
    """The answers of requests as (namespace, tokens), sorted."""
    asked = zip(traffic.tenants[chosen].tolist(), traffic.questions[chosen].tolist(), strict=True)
    return sorted((namespace_of(tenant), library.answer(tenant, number).tolist()) for tenant, number in asked)


def texts_in(memory):
    """The texts of a memory as (namespace, tokens), sorted."""
    held = memory.store.snapshot()
    names = dict(zip(held["owners_named"].tolist(), held["names"].tolist(), strict=True))
    ends = np.flatnonzero(held["tokens"] == -1) + 1
    parts = zip(np.split(held["tokens"], ends), np.split(held["owners"], ends), strict=True)
    return sorted((names[int(owners[0])], tokens[:-1].tolist()) for tokens, owners in parts if len(tokens))


def test_one_replica_is_the_replay_of_the_same_requests(library):
    traffic = traffic_of(tenants=1)
    fleet = ran(traffic, library, replicas=1, draft_tokens=8)
    drafter = StoreDrafter(DraftMemory(max_bytes=MEMORY_BYTES).store, LookaheadConfig())
    traces = [library.trace(0, number) for number in traffic.questions.tolist()]
    expected = replay(drafter, traces, draft_tokens=8)
    assert list(fleet.measured.values()) == expected.by_trace
    row = figures([fleet])
    assert row["tokens_per_forward"] == round(expected.overall.mean_acceptance_length, 4)
    assert row["of_repeated"] > row["of_new"]


@pytest.mark.parametrize("watched", [100, 2])
def test_with_exchange_each_memory_ends_with_all_texts_once(library, watched):
    traffic = traffic_of()
    fleet = ran(traffic, library, exchange_s=1.5, watched=watched)
    fleet.settle()
    assert len(fleet.watched) <= watched
    assert len(fleet.watched) + len(fleet.senders) == 5
    for replica in fleet.watched.values():
        assert texts_in(replica.memory) == answers(traffic, library)


def test_without_exchange_a_memory_has_only_the_texts_of_its_own_requests(library):
    traffic = traffic_of()
    fleet = ran(traffic, library)
    assert set(fleet.watched) == set(range(5))
    for number, replica in fleet.watched.items():
        assert texts_in(replica.memory) == answers(traffic, library, fleet.replica_of == number)
    row = figures([fleet])
    assert (row["sent_bytes_per_s"], row["received_bytes_per_s"], row["lost_share"]) == (0, 0, 0.0)


def test_exchange_gives_drafts_of_what_others_answered(library):
    traffic = traffic_of(requests_per_s=20.0)
    alone, together = (figures([ran(traffic, library, exchange_s=every)]) for every in (None, 0.2))
    assert together["of_repeated"] > alone["of_repeated"]
    assert together["memory_tokens"] > 3 * alone["memory_tokens"]


def test_bytes_are_those_of_the_updates(library, monkeypatch):
    published = []
    publish = UpdateBoard.publish
    monkeypatch.setattr(
        UpdateBoard, "publish", lambda board, update: published.append(update) or publish(board, update)
    )
    traffic = traffic_of()
    fleet = ran(traffic, library, exchange_s=1.0, watched=3)
    fleet.settle()
    ways = [one.way for one in (*fleet.watched.values(), *fleet.senders.values())]
    total = sum(map(update_bytes, published))
    assert sum(way.sent_bytes for way in ways) == total
    assert all(one.way.received_bytes == total - one.way.sent_bytes for one in fleet.watched.values())
    row = figures([fleet])
    assert row["sent_bytes_per_s"] == round(total / 5 / 20.0)


@pytest.mark.parametrize(
    ("texts", "tokens", "begin"), [(1, 0, 0), (1, 136, 7), (10, 100, 9999), (300, 20, 3)]
)
def test_the_bytes_of_an_update_are_those_of_its_file(tmp_path, texts, tokens, begin):
    learned = tuple(LearnedText(f"tenant-{number}", np.zeros(tokens, np.int32)) for number in range(texts))
    update = MemoryUpdate(source="0" * 32, begin=begin, texts=learned)
    write_update(tmp_path / "update", update)
    assert abs((tmp_path / "update").stat().st_size - update_bytes(update)) < 40


def test_what_the_board_no_longer_holds_is_lost(library):
    traffic = traffic_of()
    fleet = ran(traffic, library, exchange_s=5.0, board_tokens=100)
    assert figures([fleet])["lost_share"] > 0.1


def test_a_request_that_is_not_measured_leaves_the_same_behind(library):
    replicas = [WatchedReplica(None, memory_bytes=MEMORY_BYTES, draft_tokens=8) for _ in range(2)]
    for number in range(20):
        replicas[0].measure(library.trace(0, number), "tenant-0")
        replicas[1].learn(library.trace(0, number), "tenant-0")
    kept = [replica.memory.store.snapshot() for replica in replicas]
    for name in ("tokens", "owners", "keys", "successors"):
        assert kept[0][name].tolist() == kept[1][name].tolist()


def test_each_route_does_what_it_says(library):
    traffic = traffic_of(requests_per_s=50.0)
    replica_of = {
        route: routed(route, traffic, library, replicas=4, prefix_tokens=5).tolist() for route in Route
    }
    tenants, questions = traffic.tenants.tolist(), traffic.questions.tolist()
    of_tenant = set(zip(tenants, replica_of[Route.TENANT], strict=True))
    assert len(of_tenant) == len(set(tenants))
    of_question = set(zip(tenants, questions, replica_of[Route.PREFIX], strict=True))
    assert len(of_question) == len(set(zip(tenants, questions, strict=True)))
    assert replica_of[Route.ROUND_ROBIN][:6] == [0, 1, 2, 3, 0, 1]
    for route in (Route.PREFIX, Route.RANDOM):
        assert set(replica_of[route]) == {0, 1, 2, 3}


def test_busy_replicas_are_watched_as_often_as_they_are_asked(library):
    traffic = traffic_of(requests_per_s=100.0, tenants=40)
    fleet = ran(traffic, library, replicas=20, route=Route.TENANT, watched=4, measured=40, warm_up_s=10.0)
    assert 1 <= len(fleet.watched) <= 4
    assert 0 < len(fleet.measured) <= 40
    assert all(traffic.times[index] >= 10.0 for index in fleet.measured)
    assert {int(fleet.replica_of[index]) for index in fleet.measured} == set(fleet.watched)
    assert not fleet.senders  # nobody would receive anything


def test_each_kind_of_request_counts_as_much_as_it_has_tokens():
    new, repeated = Kind("qa", is_repeated=False), Kind("qa", is_repeated=True)
    sample = Sample()
    sample.tokens.update({new: 60_000, repeated: 30_000, Kind("rag", is_repeated=False): 500})
    assert sample.tokens_per_forward() == (None, None)
    sample.tallies[new] = [Tally(tokens=50, steps=20), Tally(tokens=50, steps=20)]
    sample.tallies[repeated] = [Tally(tokens=100, steps=10)]
    assert sample.tokens_per_forward() == (3.3333, 0.0)
    assert sample.of(repeated=True).tokens_per_forward() == (10.0, 0.0)
    assert sample.repeated_share == pytest.approx(30 / 90.5)
    sample.tallies[new] = [Tally(tokens=50, steps=10), Tally(tokens=50, steps=30)]
    length, error = sample.tokens_per_forward()
    assert length == 3.3333
    assert error == pytest.approx(2 / 3 * 0.2 / 0.3**2, abs=1e-4)


def test_repeated_questions_and_tenants_are_as_many_as_assumed():
    never = traffic_of(repeated=0.0, requests_per_s=100.0)
    assert not never.is_repeated.any()
    for tenant in range(6):
        numbers = never.questions[never.tenants == tenant].tolist()
        assert numbers == list(range(len(numbers)))
    always = traffic_of(repeated=1.0, requests_per_s=100.0)
    assert set(always.questions.tolist()) == {0}
    some = traffic_of(repeated=0.3, requests_per_s=100.0, zipf=0.0)
    assert some.is_repeated.mean() == pytest.approx(0.3, abs=0.05)
    assert len(some) == pytest.approx(2000, rel=0.1)
    assert np.bincount(some.tenants).max() < 1.3 * len(some) / 6
    assert (np.diff(some.times) >= 0).all()


def test_questions_are_the_recorded_ones_in_disguise(library):
    traces = made_traces()
    answered = np.concatenate([trace.output_ids for trace in traces])
    tokens, counts = np.unique(answered, return_counts=True)
    frequent = tokens[np.argsort(-counts, kind="stable")][:20]
    texts = set()
    for number in range(2 * len(traces)):
        asked = library.trace(3, number)
        recorded = next(trace for trace in traces if trace.trace_id == asked.trace_id)
        mapping = dict(zip(recorded.output_ids.tolist(), asked.output_ids.tolist(), strict=True))
        assert len(set(mapping.values())) == len(mapping)  # a permutation
        assert all(mapping[token] == token for token in frequent.tolist() if token in mapping)
        assert asked.successor_ids[:, 0].tolist() == asked.output_ids.tolist()
        assert library.answer(3, number).tolist() == asked.output_ids.tolist()
        assert library.prefix(3, number, 4).tolist() == asked.prompt_ids[:4].tolist()
        texts.add(asked.prompt_ids.tobytes())
    assert len(texts) == 2 * len(traces)
    assert library.trace(4, 0).prompt_ids.tobytes() not in texts


def test_the_same_seed_gives_the_same_figures():
    def rows(seed):
        study = Study(
            traffic=TrafficSettings(duration_s=10.0, requests_per_s=2.0, tenants=2, seed=seed),
            fleet=FleetSettings(watched=2, measured=30, warm_up_s=5.0),
            replicas=(1, 4),
            routes=(Route.RANDOM, Route.PREFIX),
            intervals=(None, 1.0),
            repeated=(0.2, 0.5),
            memory_bytes=(MEMORY_BYTES,),
        )
        return run_study(study, made_traces())

    first = rows(0)
    assert len(first) == 2 * (1 + 4)  # one replica has nothing to route or to exchange
    assert [row["runs"] > 1 for row in first] == [row["replicas"] == 1 for row in first]
    assert first == rows(0) != rows(1)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "traces.jsonl"
    rows = (
        {
            "id": trace.trace_id,
            "category": trace.category,
            "prompt_ids": trace.prompt_ids.tolist(),
            "output_ids": trace.output_ids.tolist(),
        }
        for trace in made_traces()
    )
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    return ended.value.code


def test_the_command_writes_a_record_and_tables(file, tmp_path, capsys):
    record = tmp_path / "fleet.json"
    options = ("--replicas", "1,3", "--route", "tenant,random", "--exchange-s", "never,2", "--duration-s", 20)
    assert run("--traces", file, *options, "--json", record) == 0
    told = json.loads(record.read_text())
    assert [(row["replicas"], row["route"], row["exchange_s"]) for row in told["results"]] == [
        (1, "tenant", None),
        (3, "tenant", None),
        (3, "tenant", 2.0),
        (3, "random", None),
        (3, "random", 2.0),
    ]
    assert told["settings"]["seed"] == 0
    assert told["settings"]["warm_up_s"] == 10.0
    assert told["settings"]["traffic_of"] == "each replica"
    assert len(told["assumed"]) > 3
    assert not {"date", "environment"} & set(told)
    shown = capsys.readouterr().out
    assert "Tokens per forward pass" in shown
    assert "2 s" in shown


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--route", "fastest", "some of tenant, prefix, random, round-robin"),
        ("--exchange-s", "often", "seconds, or never"),
        ("--exchange-s", "0", "exchange_s=0.0"),
        ("--repeated", "1.5", "repeated=1.5"),
        ("--replicas", "0", "positive integers"),
        ("--tenants", "0", "tenants=0"),
        ("--rate", "-1", "requests_per_s=-1.0"),
        ("--warm-up-s", "500", "no request arrives after a warm-up"),
        ("--watched", "0", "watched=0"),
        ("--measured", "3", "measured=3 is fewer than watched=4"),
    ],
)
def test_what_is_not_allowed_is_one_line_and_exit_code_2(file, capsys, option, value, said):
    assert run("--traces", file, "--replicas", 2, "--exchange-s", "never", option, value) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_no_request_at_all_is_refused():
    with pytest.raises(ConfigError, match="no request arrives within"):
        make_traffic(TrafficSettings(duration_s=1e-6, requests_per_s=1.0, tenants=1))
