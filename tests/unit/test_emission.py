import torch

from lookahead.decoding.emission import Emission


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

    emission = Emission(
        torch.tensor([[7]]),
        max_length=9,
        process=process,
        is_finished=judge,
        do_sample=False,
        publish=lambda token: events.append(("publish", token.tolist())),
    )
    assert emission.emit(torch.tensor([0.0, 3.0, 1.0])) == 1
    assert events == [("process", [[7]]), ("judge", [[7, 1]], None), ("publish", [1])]


def test_a_processor_sees_float32_and_may_change_it_without_touching_the_logits():
    logits = torch.tensor([0.0, 1.0], dtype=torch.bfloat16)

    def process(_ids, scores):
        assert scores.dtype == torch.float32
        scores[:, 1] = -1.0
        return scores

    emission = Emission(
        torch.tensor([[0]]), max_length=9, process=process, is_finished=never, do_sample=False
    )
    assert emission.emit(logits) == 0
    assert logits.tolist() == [0.0, 1.0]


def test_views_handed_out_keep_their_content_while_the_answer_grows():
    emission = Emission(
        torch.tensor([[5]]), max_length=10**6, process=ignore, is_finished=never, do_sample=False
    )
    views = []
    for step in range(600):
        views.append(emission.token_ids)
        emission.emit(torch.nn.functional.one_hot(torch.tensor(step % 7), 7).float())
    final = emission.token_ids[0].tolist()
    assert final == [5, *(step % 7 for step in range(600))]
    assert all(view[0].tolist() == final[: index + 1] for index, view in enumerate(views))


def test_sampling_draws_once_per_token_as_multinomial_does():
    logits = torch.linspace(0, 1, 50)
    emission = Emission(torch.tensor([[0]]), max_length=99, process=ignore, is_finished=never, do_sample=True)
    torch.manual_seed(3)
    drawn = [emission.emit(logits) for _ in range(20)]
    torch.manual_seed(3)
    expected = [int(torch.multinomial(torch.softmax(logits[None], -1), 1)) for _ in range(20)]
    assert drawn == expected


def test_scores_and_logits_are_kept_when_asked_for():
    emission = Emission(
        torch.tensor([[0]]),
        max_length=9,
        process=lambda _ids, scores: scores * 2,
        is_finished=never,
        do_sample=False,
        keep_scores=True,
        keep_logits=True,
    )
    emission.emit(torch.tensor([1.0, 2.0]))
    assert emission.scores is not None
    assert emission.logits is not None
    assert emission.scores[0].tolist() == [[2.0, 4.0]]
    assert emission.logits[0].tolist() == [[1.0, 2.0]]
