"""A long prompt says how far it has been read, and can be interrupted between two chunks."""

import io

import pytest
import torch
from rich.console import Console

from helpers.tiny_models import FUSED_VOCABULARY, prompt, tiny_model
from lookahead import Lookahead
from lookahead.cli.progress import PromptProgress

GREEDY = {"max_new_tokens": 8, "do_sample": False}
CHUNKED = {"prefill_chunk_size": 50, **GREEDY}


def text_of(tokens):
    return torch.randint(1, FUSED_VOCABULARY, (1, tokens), generator=torch.Generator().manual_seed(tokens))


def test_each_chunk_is_reported():
    model, reported = tiny_model("fused-llama"), []

    def report(read, total):
        reported.append((read, total))

    Lookahead().generate(model, text_of(120), on_progress=report, **CHUNKED)
    model.generate(text_of(60), custom_generate=Lookahead(), on_progress=report, **CHUNKED)
    with Lookahead().attach(model, on_progress=report):
        model.generate(text_of(30), **CHUNKED)
    Lookahead().for_namespace("a").generate(model, text_of(10), on_progress=report, **CHUNKED)
    assert reported == [(50, 120), (100, 120), (120, 120), (50, 60), (60, 60), (30, 30), (10, 10)]


def test_a_prompt_that_the_models_own_code_reads_is_reported_once():
    reported, token_ids = [], prompt(3)
    Lookahead().generate(
        tiny_model("gpt2"), token_ids, on_progress=lambda *counts: reported.append(counts), **GREEDY
    )
    assert reported == [(token_ids.numel(), token_ids.numel())]


@pytest.mark.parametrize("after", [1, 2, 3])
def test_an_interrupt_between_two_chunks_leaves_nothing_behind(after):
    model, lookahead = tiny_model("fused-qwen2"), Lookahead()
    expected = model.generate(text_of(130), **GREEDY).tolist()
    calls = []

    def interrupt(*counts):
        calls.append(counts)
        if len(calls) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lookahead.generate(model, text_of(130), on_progress=interrupt, **CHUNKED)
    assert len(calls) == after
    assert lookahead.memory.namespaces == {}
    assert lookahead.generate(model, text_of(130), **CHUNKED).tolist() == expected


@pytest.mark.parametrize("at", [50, 100, 120])
def test_a_model_that_is_changed_between_two_chunks_is_read_as_it_is_then(at):
    def answer(change_at, **settings):
        model = tiny_model("fused-llama")

        def change(read, _total):
            if read == change_at:
                weight = model.model.layers[0].mlp.down_proj.weight
                model.model.layers[0].mlp.down_proj.weight = torch.nn.Parameter(-weight.detach())

        return Lookahead(**settings).generate(model, text_of(120), on_progress=change, **CHUNKED).tolist()

    changed, unchanged = answer(at), answer(None)
    assert changed != unchanged
    assert changed[0][:120] == unchanged[0][:120]


def test_the_bar_is_shown_on_a_terminal_only():
    for is_terminal in (True, False):
        written = io.StringIO()
        with PromptProgress(Console(file=written, force_terminal=is_terminal, width=100)) as progress:
            progress(512, 1200)
            progress(1024, 1200)
            progress(1200, 1200)
        assert ("reading the prompt" in written.getvalue()) == is_terminal


def test_a_prompt_of_one_chunk_shows_nothing():
    written = io.StringIO()
    with PromptProgress(Console(file=written, force_terminal=True, width=100)) as progress:
        progress(100, 100)
    assert "reading" not in written.getvalue()
