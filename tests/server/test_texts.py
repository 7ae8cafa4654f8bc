"""The server's texts, log-probabilities and choices are those of `generate`, alone and under load.

In `make verify`, the answers are twice as long, and sixteen at once; here, they are eight, of four rows.
"""

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import torch

from helpers.samples import IS_WHOLE

pytestmark = [pytest.mark.model, pytest.mark.matrix]

QUESTIONS = [
    "What is the capital of France?",
    "List three colours.",
    "Repeat: the cat sat on the mat, the cat sat on the mat.",
    "Why is the sky blue?",
]
TOKENS, ROUNDS = (24, 4) if IS_WHOLE else (10, 1)


@pytest.fixture(scope="module")
def client(live):
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="any", max_retries=0)


def messages(question):
    return [{"role": "user", "content": question}]


def chat(client, question, **options):
    options = {"temperature": 0, "max_tokens": TOKENS} | options
    return client.chat.completions.create(model="embedded", messages=messages(question), **options)


def streamed(client, question, **options):
    chunks = chat(client, question, stream=True, **options)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def generated(live, question, **options):
    """What `generate` itself gives: the answer's tokens and logits."""
    live.wait_until_idle()
    prompt = live.tokenizer.apply_chat_template(
        messages(question), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    options = {"do_sample": False, "max_new_tokens": TOKENS} | options
    out = live.model.generate(**prompt, output_logits=True, return_dict_in_generate=True, **options)
    ids = out.sequences[0, prompt["input_ids"].shape[1] :].tolist()
    return ids, torch.stack(out.logits)[:, 0]


def text_of(live, ids):
    return live.tokenizer.decode(ids, skip_special_tokens=True)


def test_greedy_text_is_that_of_generate_alone_streamed_and_with_many_at_once(live, client):
    expected = {question: text_of(live, generated(live, question)[0]) for question in QUESTIONS}
    for question in QUESTIONS:
        assert chat(client, question).choices[0].message.content == expected[question]
        assert streamed(client, question) == expected[question]
    with ThreadPoolExecutor(4 * ROUNDS) as threads:
        many = list(threads.map(lambda question: (question, streamed(client, question)), QUESTIONS * ROUNDS))
    assert all(text == expected[question] for question, text in many)


def test_a_seed_gives_the_same_text_alone_and_under_load(live, client):
    options = {"temperature": 0.9, "top_p": 0.95, "seed": 7}
    alone = [streamed(client, question, **options) for question in QUESTIONS]
    with ThreadPoolExecutor(4 * ROUNDS) as threads:
        many = list(threads.map(lambda question: streamed(client, question, **options), QUESTIONS * ROUNDS))
    assert many == alone * ROUNDS
    torch.manual_seed(7)
    sampled = {"do_sample": True, "temperature": 0.9, "top_p": 0.95, "top_k": 0}
    assert alone[0] == text_of(live, generated(live, QUESTIONS[0], **sampled)[0])
    choices = chat(client, QUESTIONS[0], n=3, **options).choices
    others = [streamed(client, QUESTIONS[0], **options | {"seed": 7 + i}) for i in range(3)]
    assert [choice.message.content for choice in choices] == others
    assert len(set(others)) > 1


@pytest.mark.parametrize("question", QUESTIONS[:3])
def test_logprobs_are_those_of_the_raw_logits_with_drafts_on(live, client, question):
    ids, logits = generated(live, question)
    expected = logits.log_softmax(dim=-1)
    answer = chat(client, question, logprobs=True, top_logprobs=3, frequency_penalty=0.0)
    entries = answer.choices[0].logprobs.content
    assert [entry.logprob for entry in entries] == pytest.approx(
        [float(scores[token]) for scores, token in zip(expected, ids, strict=True)], abs=1e-4
    )
    for entry, scores in zip(entries, expected, strict=True):
        top = scores.topk(3).values.tolist()
        assert [one.logprob for one in entry.top_logprobs] == pytest.approx(top, abs=1e-4)
    joined = b"".join(bytes(entry.bytes) for entry in entries)
    assert joined.decode() == live.tokenizer.decode(ids)
    pieces = [
        entry
        for chunk in chat(client, question, logprobs=True, top_logprobs=3, stream=True)
        if chunk.choices and chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert [entry.token for entry in pieces] == [entry.token for entry in entries]
    assert answer.usage.completion_tokens_details.accepted_prediction_tokens > 0


def test_a_prompt_is_scored_with_echo_and_logprobs(live, client):
    text = "The cat sat on the mat. The cat sat on the mat."
    ids = live.tokenizer(text)["input_ids"]
    live.wait_until_idle()
    with torch.no_grad():
        scores = live.model(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
    expected = [float(scores[at, token]) for at, token in enumerate(ids[1:])]
    for prompt in (text, ids):
        scored = client.completions.create(
            model="embedded", prompt=prompt, max_tokens=0, echo=True, logprobs=1, temperature=0
        ).choices[0]
        assert scored.text == text
        assert scored.logprobs.token_logprobs[0] is None
        assert scored.logprobs.token_logprobs[1:] == pytest.approx(expected, abs=1e-4)
        assert scored.logprobs.text_offset == [len(live.tokenizer.decode(ids[:at])) for at in range(len(ids))]
    continued = client.completions.create(
        model="embedded", prompt=text, max_tokens=4, echo=True, logprobs=0, temperature=0
    ).choices[0]
    assert continued.text.startswith(text)
    assert len(continued.logprobs.tokens) == len(ids) + 4


def test_bias_penalties_and_min_p_hold_with_drafts(live, client):
    first = generated(live, QUESTIONS[0])[0][0]
    banned = chat(client, QUESTIONS[0], logit_bias={str(first): -100}, logprobs=True)
    assert banned.choices[0].logprobs.content[0].token != live.tokenizer.decode([first])
    repeated = QUESTIONS[2]
    penalized = chat(client, repeated, extra_body={"repetition_penalty": 1.3}).choices[0].message.content
    assert penalized == text_of(live, generated(live, repeated, repetition_penalty=1.3)[0])
    torch.manual_seed(3)
    options = {"do_sample": True, "temperature": 1.5, "min_p": 0.2, "top_k": 0}
    expected = text_of(live, generated(live, QUESTIONS[1], **options)[0])
    assert streamed(client, QUESTIONS[1], temperature=1.5, seed=3, extra_body={"min_p": 0.2}) == expected
    allowed = live.tokenizer(" yes no", add_special_tokens=False)["input_ids"]
    only = chat(client, QUESTIONS[3], max_tokens=5, extra_body={"allowed_token_ids": allowed})
    assert set(only.choices[0].message.content.split()) <= {"yes", "no", "yesno", "noyes"}


def test_a_stop_string_across_tokens_ends_the_answer_and_is_not_sent(live, client):
    whole = text_of(live, generated(live, QUESTIONS[0])[0])
    stop = whole[5:14]  # begins and ends within words
    for text in (
        chat(client, QUESTIONS[0], stop=[stop, "never"]).choices[0].message.content,
        streamed(client, QUESTIONS[0], stop=stop),
    ):
        assert text == whole[:5]
    kept = chat(client, QUESTIONS[0], stop=stop, extra_body={"include_stop_str_in_output": True}).choices[0]
    assert kept.message.content == whole[:14]
    assert (kept.finish_reason, kept.stop_reason) == ("stop", stop)
