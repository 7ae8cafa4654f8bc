from functools import partial

import pytest
import torch

from lookahead.decoding.sampling.choice import Sampler, argmax
from lookahead.decoding.sampling.state import GenerationState, padded_together


def ignore(_ids, scores):
    return scores


def never(ids, _scores):
    return torch.zeros(ids.shape[0], dtype=torch.bool)


def test_each_token_is_processed_judged_and_published_in_that_order():
    events = []

    def process(ids, scores):
        events.append(("process", ids.tolist()))
        return scores

    def judge(ids, scores):
        events.append(("judge", ids.tolist(), scores))
        return never(ids, scores)

    state = GenerationState(
        torch.tensor([[7]]),
        max_length=9,
        process=process,
        is_finished=judge,
        choose=argmax,
        publish=lambda token: events.append(("publish", token.tolist())),
    )
    assert state.emit(torch.tensor([[0.0, 3.0, 1.0]])) == [1]
    assert events == [("process", [[7]]), ("judge", [[7, 1]], None), ("publish", [1])]


def test_a_processor_sees_float32_and_may_change_it_without_touching_the_logits():
    logits = torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16)

    def process(_ids, scores):
        assert scores.dtype == torch.float32
        scores[:, 1] = -1.0
        return scores

    state = GenerationState(
        torch.tensor([[0]]), max_length=9, process=process, is_finished=never, choose=argmax
    )
    assert state.emit(logits) == [0]
    assert logits.tolist() == [[0.0, 1.0]]


def test_views_handed_out_keep_their_content_while_the_answer_grows():
    state = GenerationState(
        torch.tensor([[5]]), max_length=10**6, process=ignore, is_finished=never, choose=argmax
    )
    views = []
    for step in range(600):
        views.append(state.token_ids)
        state.emit(torch.nn.functional.one_hot(torch.tensor([step % 7]), 7).float())
    final = state.token_ids[0].tolist()
    assert final == [5, *(step % 7 for step in range(600))]
    assert all(view[0].tolist() == final[: index + 1] for index, view in enumerate(views))


def test_sampling_draws_once_per_token_as_multinomial_does():
    logits = torch.linspace(0, 1, 50)[None]
    state = GenerationState(
        torch.tensor([[0]]), max_length=99, process=ignore, is_finished=never, choose=Sampler()
    )
    torch.manual_seed(3)
    tokens = [state.emit(logits)[0] for _ in range(20)]
    torch.manual_seed(3)
    expected = [int(torch.multinomial(torch.softmax(logits, -1), 1)) for _ in range(20)]
    assert tokens == expected


def test_scores_and_logits_are_kept_when_asked_for():
    state = GenerationState(
        torch.tensor([[0]]),
        max_length=9,
        process=lambda _ids, scores: scores * 2,
        is_finished=never,
        choose=argmax,
        keep_scores=True,
        keep_logits=True,
    )
    state.emit(torch.tensor([[1.0, 2.0]]))
    assert state.scores is not None
    assert state.logits is not None
    assert state.scores[0].tolist() == [[2.0, 4.0]]
    assert state.logits[0].tolist() == [[1.0, 2.0]]


def one_hot(*tokens):
    return torch.nn.functional.one_hot(torch.tensor(tokens), 8).float()


def ends_with(token):
    return lambda ids, _scores: ids[:, -1] == token


def test_rows_that_are_finished_are_padded_until_all_are():
    published = []
    state = GenerationState(
        torch.tensor([[1], [2]]),
        max_length=9,
        process=ignore,
        is_finished=ends_with(7),
        choose=argmax,
        pad_token_id=0,
        publish=lambda tokens: published.append(tokens.tolist()),
    )
    assert state.emit(one_hot(7, 3)) == [7, 3]
    assert state.padded_rows == {0}
    assert state.emit(one_hot(5, 4)) == [0, 4]
    assert not state.finished
    assert state.emit(one_hot(5, 7)) == [0, 7]
    assert state.finished
    assert state.token_ids.tolist() == [[1, 7, 0, 0], [2, 3, 4, 7]]
    assert published == [[7, 3], [0, 4], [0, 7]]


def ended_by_7_or_length(pad_token_id, events, *, ends, publish_first=False):
    return GenerationState(
        torch.tensor([[1], [2]]),
        max_length=6,
        process=ignore,
        is_finished=lambda ids, _scores: (ids[:, -1] == 7) | (ids.shape[1] >= 6),
        choose=argmax,
        pad_token_id=pad_token_id,
        on_finish=lambda: events.append("finished"),
        publish=lambda tokens: events.append(tokens.tolist()),
        publish_first=publish_first,
        ends=ends,
    )


@pytest.mark.parametrize("publish_first", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("ending", [[(7, 3), (5, 4), (5, 7)], [(6, 7), (1, 2), (1, 2), (1, 2), (1, 2)]])
def test_tokens_chosen_elsewhere_are_emitted_as_those_chosen_here(ending, mixed, publish_first):
    expected, actual = [], []
    asked = ended_by_7_or_length(0, expected, ends=None, publish_first=publish_first)
    told = ended_by_7_or_length(0, actual, ends={7}, publish_first=publish_first)
    assert told.needs_only_argmax
    assert not asked.needs_only_argmax
    for step, tokens in enumerate(ending):
        assert not asked.finished
        emitted = told.emit(one_hot(*tokens)) if mixed and step % 2 else told.emit_argmax(tokens)
        assert emitted == asked.emit(one_hot(*tokens))
        assert (told.padded_rows, told.finished) == (asked.padded_rows, asked.finished)
        assert told.remaining == asked.remaining
    assert actual == expected
    assert expected[-1] == "finished" or expected[-2] == "finished"
    assert told.token_ids.tolist() == asked.token_ids.tolist()


def test_without_a_padding_token_finished_rows_go_on_as_they_would():
    state = GenerationState(
        torch.tensor([[1], [2]]), max_length=9, process=ignore, is_finished=ends_with(7), choose=argmax
    )
    state.emit(one_hot(7, 3))
    assert state.emit(one_hot(5, 7)) == [5, 7]
    assert not state.padded_rows
    assert state.finished  # the first row was, whatever it went on with


def test_answers_of_their_own_are_padded_to_the_longest():
    states, ended = [], []
    for row, tokens in enumerate(([3, 7], [4, 5, 6, 7])):
        state = GenerationState(
            torch.tensor([[row]]),
            rows=(row,),
            max_length=9,
            process=ignore,
            is_finished=ends_with(7),
            choose=argmax,
            on_finish=partial(ended.append, row),
        )
        for token in tokens:
            assert row not in ended
            state.emit(one_hot(token))
        assert ended[-1] == row
        states.append(state)
    assert padded_together(states, 1).tolist() == [[0, 3, 7, 1, 1], [1, 4, 5, 6, 7]]
