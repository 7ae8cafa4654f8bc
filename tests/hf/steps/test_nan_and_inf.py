"""A model whose numbers overflow says what it says with `generate`; nothing hangs and nothing is printed."""

import os
import subprocess
import sys
from itertools import product

import pytest
import torch

from helpers.fused_steps import fused_steps
from helpers.overflowing_models import CHANGES, changed_model, differences, prompts, text_of
from helpers.samples import sampled, thinned
from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig
from lookahead.drafting.tree import DraftTree
from lookahead.hf.compat.layout import attention_layout, fresh_cache
from lookahead.hf.steps.verification import COMPILED
from lookahead.hf.support.trial import trial_step_model

__all__ = ["fused_steps"]
TIMEOUT_S = 240
FAULTS_IN_A_TOKEN = ["a token is NaN", "a token is infinite", "a token overflows"]
# Such a model is decoded in plain steps, with a warning.
pytestmark = pytest.mark.filterwarnings("ignore:.*decoded in plain steps:UserWarning")


@pytest.mark.parametrize("change", CHANGES)
def test_text_and_errors_are_generates(change, capfd):
    assert not differences("fused-llama", change)
    assert "Exception ignored" not in capfd.readouterr().err


@pytest.mark.matrix
@pytest.mark.parametrize("limit", sampled(["2", "1"], ["2"]))
def test_two_threads_do_not_hang(limit):
    """In a process of their own, which can be ended; OpenMP gives as many threads as the limit allows.

    The sample has two that are there; two of which one is not are in `make verify`.
    """
    path = os.pathsep.join(sys.path)
    limits = {"OMP_THREAD_LIMIT": limit, "OMP_WAIT_POLICY": "passive"}
    changes = ["all weights times 1e20", "all weights times 1e10", "a token is NaN"]
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-W", "ignore", "-m", "helpers.overflowing_models", "2", *changes],
        env={**os.environ, **limits, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stderr.strip()) == (0, "")


@pytest.mark.parametrize("change", FAULTS_IN_A_TOKEN)
@pytest.mark.parametrize("family", ["llama", "gemma3", "fused-mistral"])
def test_a_drafted_token_that_overflows_in_the_models_own_code(family, change):
    assert not differences(family, change, compiled_cpu=False)


@pytest.mark.parametrize("family", ["fused-mistral", "fused-qwen2", "fused-qwen3"])
def test_a_drafted_token_that_overflows_in_fused_steps(family, fused_steps):
    assert not differences(family, "a token is NaN")
    assert fused_steps.taken() > 0


@pytest.mark.parametrize("change", FAULTS_IN_A_TOKEN)
def test_in_bfloat16_a_prompt_that_overflows_has_generates_text(change, fused_steps):
    model = changed_model("fused-llama", change, torch.bfloat16)
    row = prompts()[1:]
    for decoding_length in (1, 6):
        lookahead = Lookahead(LookaheadConfig(decoding_length=decoding_length))
        expected = text_of(model.generate, row, is_sampled=False)
        assert text_of(lookahead.generate, model, row, is_sampled=False) == expected
        if change != "a token overflows":
            assert "inf" in text_of(lookahead.generate, model, row, is_sampled=True)
    assert fused_steps.taken() > 0


def kinds_of(logits):
    """Return 0 for a finite number, 1 for a NaN, 2 and 3 for the infinities."""
    return logits.isnan() + 2 * logits.isposinf() + 3 * logits.isneginf()


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("family", "change", "dtype"),
    thinned(product(["fused-llama", "fused-qwen3"], CHANGES, [torch.float32, torch.bfloat16]), 3),
)
def test_logits_are_no_numbers_where_the_models_own_are_none(family, change, dtype):
    model = changed_model(family, change, dtype)
    tokens, branch = [11, 23, 5, 9], [11, 7, 40]
    layout = attention_layout(model, fresh_cache(model))
    text = prompt(0)[0].tolist()
    text = [token if token != 7 else 8 for token in text]
    step_model = trial_step_model(model, layout, text, max_nodes=8, verification=COMPILED)
    tree = DraftTree(
        *(torch.tensor(column, dtype=torch.int32).numpy() for column in _COLUMNS), _PROBABILITIES
    )
    with torch.no_grad():
        found = step_model.forward({0: tree})[0]
        for path, nodes in ((tokens, [0, 1, 2, 3]), (branch, [0, 4, 5])):
            ids, past = torch.tensor([text]), None
            past = model(ids, use_cache=True).past_key_values
            for token, node in zip(path, nodes, strict=True):
                logits = model(torch.tensor([[token]]), past_key_values=past, use_cache=True).logits[0, -1]
                assert torch.equal(kinds_of(found[node]), kinds_of(logits)), (
                    node,
                    found[node][:4],
                    logits[:4],
                )
    step_model.close()


_COLUMNS = ([11, 23, 5, 9, 7, 40], [-1, 0, 1, 2, 0, 4], [0, 1, 2, 3, 1, 2])
_PROBABILITIES = torch.tensor([1.0, 0.5, 0.4, 0.3, 0.2, 0.1], dtype=torch.float64).numpy()


def test_a_padded_batch_with_a_row_that_is_nan(fused_steps):
    model = changed_model("fused-llama", "a token is NaN")
    rows = prompts()
    mask = torch.ones_like(rows)
    mask[0, :3] = 0
    settings = {"max_new_tokens": 20, "do_sample": False, "attention_mask": mask}
    lookahead = Lookahead(LookaheadConfig(decoding_length=12))
    for _ in ("cold", "warm"):
        expected = model.generate(rows, **settings).tolist()
        assert lookahead.generate(model, rows, **settings).tolist() == expected
    assert fused_steps.taken() > 0


def test_another_number_of_threads_between_two_steps(fused_steps):
    model, row = tiny_model("fused-llama"), prompt(0)
    expected = model.generate(row, max_new_tokens=20, do_sample=False).tolist()

    def changing(_ids, scores):
        torch.set_num_threads(2 if torch.get_num_threads() == 1 else 1)
        return scores

    found = Lookahead(LookaheadConfig(decoding_length=4)).generate(
        model, row, max_new_tokens=20, do_sample=False, logits_processor=[changing]
    )
    assert found.tolist() == expected
    assert fused_steps.taken() > 0
