"""Times of requests, with a simulated clock."""

import pytest

from lookahead.bench.serving.measuring import Passes, Recorder, Round, Timeline, serve_in_turn


def test_waits_are_those_of_events_divided_by_their_tokens():
    timeline = Timeline(1.0, events=[(3.0, 2), (3.5, 1), (5.0, 3)])
    assert timeline.first_token_s == 2.0
    assert timeline.waits_s == [0.5, 0.5, 0.5, 0.5]
    assert Timeline(1.0).first_token_s is None
    assert Timeline(1.0, events=[(3.0, 2)]).waits_s == []


def test_the_figures_of_a_round():
    timelines = [
        Timeline(0.0, events=[(index / 1000, 1), (2 * index / 1000, 1)], answer=[5, 6])
        for index in range(1, 102)
    ]
    figures = Round(timelines, Passes(101, 1.5)).figures()
    assert figures["tokens"] == 202
    assert figures["wall_s"] == pytest.approx(0.202)
    assert figures["tokens_per_second"] == pytest.approx(1000)
    assert figures["first_token_p50_ms"] == figures["token_p50_ms"] == pytest.approx(51)
    assert figures["first_token_p99_ms"] == pytest.approx(100)
    assert (figures["tokens_per_forward"], figures["acceptance_length"]) == (2.0, 1.5)


def test_a_round_without_tokens_has_no_figures():
    figures = Round([Timeline(0.0)]).figures()
    assert (figures["wall_s"], figures["tokens"]) == (0.0, 0)
    assert figures["tokens_per_second"] is figures["first_token_p50_ms"] is figures["token_p99_ms"] is None


def test_a_recorder_counts_from_its_beginning_and_takes_times_of_the_clock(timer):
    recorder = Recorder([0.0, 2.0], timer)
    timer.sleep(0.5)
    recorder.put(0, [7])
    recorder.put(0, [])
    recorder.put(0, [8, 9], at=101.0)
    assert recorder.timelines[0].events == [(0.5, 1), (1.0, 2)]
    assert recorder.timelines[0].answer == [7, 8, 9]
    recorder.wait_for(1)
    recorder.wait_for(0)
    assert timer.slept == [0.5, 1.5]


@pytest.mark.parametrize(
    ("most", "batches", "first"),
    [
        (1, [[0], [1], [2], [3]], [1.0, 1.9, 2.9, 1.0]),
        (2, [[0], [1, 2], [3]], [1.0, 1.9, 1.9, 1.0]),
    ],
)
def test_requests_are_answered_in_turn_with_what_has_arrived(timer, most, batches, first):
    recorder = Recorder([0.0, 0.1, 0.1, 9.0], timer)
    answered = []

    def answer(indices):
        answered.append(list(indices))
        timer.sleep(1.0)
        for index in indices:
            recorder.put(index, [1])

    serve_in_turn(recorder, answer, most=most)
    assert answered == batches
    assert [timeline.first_token_s for timeline in recorder.timelines] == pytest.approx(first)
